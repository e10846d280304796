"""MagicVideo-V2 whole: a prompt through T2I, I2V, V2V and VFI, each stage seeded, recorded and reused by digest."""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from magicvideo.backbone import SDPA_BATCH_LIMIT, check_num_frames, set_pixel_limit
from magicvideo.components import WITHOUT_HUB_ID, Components, cast, load_components, save_components
from magicvideo.config import InterpolatorKind, PipelineConfig, digest_of
from magicvideo.errors import MagicVideoError
from magicvideo.execution import Execution, compile_forward, memory_errors
from magicvideo.i2v import MagicVideoI2V
from magicvideo.identity import part_digest
from magicvideo.lora import read_adapter
from magicvideo.presets import PRESETS, ablate, check_source, preset, with_parts
from magicvideo.sources import locate
from magicvideo.stage_cache import StageCache
from magicvideo.stages import STAGES, StageRecord, StageRun, VideoResult, stage_seed, to_uint8
from magicvideo.t2i import load_text_to_image, read_image
from magicvideo.v2v import MagicVideoV2V
from magicvideo.vfi.baselines import fade, hold, predictor
from magicvideo.vfi.edsc import EDSC
from magicvideo.vfi.ema import EMAVFI
from magicvideo.vfi.interpolator import Predictor, edsc_predictor
from magicvideo.video import write_video

__all__ = ["MagicVideoPipeline", "StageRecord", "VideoResult", "stage_seed", "to_uint8", "write_stages"]

log = logging.getLogger(__name__)

CONFIG_FILE = "magicvideo.json"
CPU_PIXEL_LIMIT = 128  # rows of temporal attention that stay in the cache of a processor core
OWN_T2I = "t2i"  # folder of another text-to-image pipeline inside a saved checkpoint
VIDEO_PARTS = (
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "image_encoder",
    "feature_extractor",
    "controlnet",
)


class MagicVideoPipeline:
    """Text to video in four stages.

    Example::

        pipe = MagicVideoPipeline.from_pretrained("sprites")
        result = pipe("a large red star spinning on a sunset background", seed=0)
        write_video("star.mp4", result.frames, result.fps)
    """

    def __init__(
        self,
        components: Components,
        config: PipelineConfig,
        *,
        execution: Execution | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        """Build the stages from loaded parts; the spatial layers of I2V and V2V are the same objects.

        Args:
            components: the parts.
            config: what the stages do.
            execution: how they run.
            cache_dir: keeps the stages' outputs for other processes and later; None keeps the last few in memory.

        Raises:
            MagicVideoError: the parts cannot do what the configuration asks, or ``cache_dir`` cannot be written.
        """
        check_num_frames(components.i2v_motion, config.i2v.num_frames)
        check_num_frames(components.v2v_motion, config.i2v.num_frames)
        self.components, self.config = components, config
        self.execution = execution or Execution()
        self.cache = StageCache(cache_dir)
        self.device, self.dtype = torch.device("cpu"), components.unet.dtype
        self._digests: dict[str, str] = {}
        shared = {name: getattr(components, name) for name in VIDEO_PARTS}
        self.i2v = MagicVideoI2V(**shared, unet=components.i2v_unet, motion_adapter=components.i2v_motion)
        shared["controlnet"] = components.v2v_controlnet or components.controlnet
        self.v2v = MagicVideoV2V(**shared, unet=components.v2v_unet, motion_adapter=components.v2v_motion)
        for pipe in (self.i2v, self.v2v):
            pipe.set_progress_bar_config(disable=True)
        if self.execution.compile:
            compile_forward(self.i2v.unet, self.i2v.controlnet, self.v2v.unet, self.v2v.controlnet)

    @cached_property
    def t2i(self) -> DiffusionPipeline:
        """The text-to-image pipeline; another one than the checkpoint's own is loaded on first use."""
        if self.config.t2i.model is not None:
            return load_text_to_image(self.config.t2i.model, self.dtype).to(self._home)
        names = (
            "vae",
            "text_encoder",
            "tokenizer",
            "unet",
            "scheduler",
            "feature_extractor",
            "image_encoder",
        )
        shared = {name: getattr(self.components, name) for name in names}
        shared["unet"] = self.components.t2i_unet or shared["unet"]
        pipe = StableDiffusionPipeline(**shared, safety_checker=None, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: str = "cpu",
        dtype: torch.dtype | str = torch.float32,
        arm: str = "full",
        parts: Mapping[str, str] | None = None,
        adapter: str | Path | None = None,
        execution: Execution | None = None,
        cache_dir: str | Path | None = None,
    ) -> "MagicVideoPipeline":
        """Load a preset by name, or a folder or hub id that ``save_pretrained`` wrote.

        Args:
            name: what to load.
            device: where it runs.
            dtype: of the weights.
            arm: make this ablation arm the pipeline's configuration, so that only its parts are needed.
            parts: sources of single parts in place of those of the checkpoint (see ``PipelineConfig.parts``).
            adapter: a LoRA of the spatial layers, and perhaps of I2V's motion modules, to be added to the weights
                (see ``magicvideo.lora``): a folder, file or hub id.
            execution: how the stages run.
            cache_dir: see the constructor.

        Raises:
            MagicVideoError: nothing of that name, or a checkpoint that is incomplete or does not fit.
        """
        check_source(name)
        config = preset(name) if name in PRESETS else _read_config(locate(name), name)
        config = ablate(with_parts(config, parts or {}), arm)
        return cls.from_config(
            config, device=device, dtype=dtype, adapter=adapter, execution=execution, cache_dir=cache_dir
        )

    @classmethod
    def from_preset(
        cls, name: str, *, device: str = "cpu", dtype: torch.dtype | str = torch.float32
    ) -> "MagicVideoPipeline":
        """Load a preset and the checkpoint it names."""
        return cls.from_config(preset(name), device=device, dtype=dtype)

    @classmethod
    def from_config(
        cls,
        config: PipelineConfig,
        *,
        device: str = "cpu",
        dtype: torch.dtype | str = torch.float32,
        adapter: str | Path | None = None,
        execution: Execution | None = None,
        cache_dir: str | Path | None = None,
    ) -> "MagicVideoPipeline":
        """Load the checkpoint and the parts that a configuration names; arguments as in ``from_pretrained``."""
        wanted = parse_dtype(dtype)
        check_device(device)
        folder = locate(config.checkpoint) if config.checkpoint else None
        components = load_components(folder, config.parts, vfi=config.vfi.kind, dtype=wanted)
        if adapter is not None:
            added = read_adapter(adapter)
            if added.stages == "t2i" and config.t2i.model is not None:
                raise MagicVideoError(
                    f"the adapter {added.source} is for text-to-image of the checkpoint itself, but t2i.model is "
                    f"{config.t2i.model!r}; leave out one of the two"
                )
            components.adapt(added)
        pipe = cls(components, config, execution=execution, cache_dir=cache_dir)
        return pipe.to(device, wanted)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configuration so that ``from_pretrained(folder)`` gives an equal pipeline.

        The configuration is written last: a folder without it was not written to its end.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        save_components(self.components, folder)
        self._lay_out()
        if self.config.t2i.model is not None:
            self.t2i.save_pretrained(folder / OWN_T2I)
        config = replace(self.config, checkpoint=str(folder), parts={})
        temporary = folder / f".{CONFIG_FILE}.part"
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        os.replace(temporary, folder / CONFIG_FILE)

    def to(self, device: str, dtype: torch.dtype | str = torch.float32) -> "MagicVideoPipeline":
        """Move every module to ``dtype`` and to ``device``, or to the CPU if it is offloaded from there.

        Raises:
            MagicVideoError: the device is not there, or the dtype is not one of float32, float16, bfloat16.
        """
        wanted = parse_dtype(dtype)
        check_device(device)
        self.execution.check_device(device)
        self.device, self.dtype = torch.device(device), wanted
        with memory_errors("loading"):
            for module in self.components.modules().values():
                cast(module, self._home, wanted)
            if "t2i" in vars(self):
                self.t2i.to(self._home, wanted)
            self._lay_out()
        self._digests = {}
        return self

    def _lay_out(self) -> None:
        """Lay weights out, and cut temporal attention, as the device runs them fastest; rounding aside, no change."""
        on_cpu = self.device.type == "cpu"
        layout = torch.channels_last if on_cpu else torch.contiguous_format
        for module in self.components.modules().values():
            torch.nn.Module.to(module, memory_format=layout)
        for unet in (self.components.i2v_unet, self.components.v2v_unet):
            set_pixel_limit(unet, CPU_PIXEL_LIMIT if on_cpu else SDPA_BATCH_LIMIT)

    @property
    def _home(self) -> torch.device:
        """Where weights lie while they are not used."""
        return self.device if self.execution.offload == "none" else torch.device("cpu")

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str,
        *,
        seed: int = 0,
        arm: str = "full",
        image: Image.Image | str | Path | None = None,
        progress: bool = True,
    ) -> VideoResult:
        """Make one video.

        Args:
            prompt: what it shows.
            seed: every stage derives its own generator from it, so that switching one stage off leaves the
                noise of all others and the output of the stages before it unchanged.
            arm: an ablation arm (see ``magicvideo.presets.ARMS``).
            image: a reference image in place of text-to-image's; its largest central square is taken.
            progress: show a bar over the stages.

        Raises:
            MagicVideoError: an empty prompt, an unknown arm, an unreadable image, settings that no video can
                come from, or no memory left.
        """
        if not prompt.strip():
            raise MagicVideoError("the prompt is empty; say what the video shows")
        config = ablate(self.config, arm)
        self.predictor(config.vfi.kind)
        given = None if image is None else read_image(image)
        unknown = self.unknown_words(prompt)
        if unknown:
            log.warning("the embedded checkpoint does not know: %s; --preset paper does", ", ".join(unknown))
        run = StageRun(self, config, prompt, seed, given)
        with tqdm(total=len(STAGES), desc=prompt[:40], disable=not progress, leave=False) as bar:
            for stage in STAGES:
                bar.set_postfix_str(stage)
                run.stage(stage)
                bar.update()
        fps = Fraction(config.fps)
        return VideoResult(
            prompt=prompt, frames=run.stages["vfi"], fps=fps, records=run.records, stages=run.stages
        )

    @torch.inference_mode()
    def reference_image(self, prompt: str, *, seed: int = 0) -> torch.Tensor:
        """Return what text-to-image alone makes of a prompt: ``(3, H, W)`` uint8, the first stage of a video."""
        run = StageRun(self, self.config, prompt, seed, None)
        run.stage("t2i")
        return run.stages["t2i"][0]

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of ``prompt`` that the sprites checkpoint was never taught; [] for any other."""
        if self.config.name != "sprites":
            return []
        tokens = self.components.tokenizer.get_vocab()
        known = {token.removesuffix("</w>") for token in tokens if token.endswith("</w>") and len(token) > 5}
        words = dict.fromkeys(re.findall(r"[^\W\d_]+", prompt.lower()))
        return [word for word in words if word not in known | {"a"}]

    def predictor(self, kind: InterpolatorKind) -> Predictor:
        """Return what predicts frames between keyframes.

        Raises:
            MagicVideoError: the loaded parts do not include it.
        """
        if kind in ("blend", "repeat"):
            return fade if kind == "blend" else hold
        model = self.interpolator(kind)
        if isinstance(model, EDSC):
            return edsc_predictor(model)
        return model.predict if isinstance(model, EMAVFI) else predictor(kind, model)

    def interpolator(self, kind: InterpolatorKind) -> Any:
        """Return the module behind a learned kind of interpolation: the part of that name, else the combined one.

        Raises:
            MagicVideoError: there is none.
        """
        own = getattr(self.components, kind, None)
        combined = self.components.interpolator
        if own is not None:
            return own
        if combined is None or (kind == "edsc" and combined.edsc is None):
            part = "interpolator" if kind == "combined" else kind
            raise MagicVideoError(
                f"vfi.kind {kind!r} needs the part {part} ({WITHOUT_HUB_ID[part]}), which is not loaded; name its "
                f"file or folder with --part {part}=PATH, or choose another vfi.kind"
            )
        return combined

    def digest(self) -> str:
        """Return 16 hexadecimal digits of the configuration and all weights, wherever they were loaded from."""
        settings = self.config.to_dict() | {"checkpoint": "", "parts": {}}
        settings["t2i"].pop("model")
        return digest_of([settings, *(self.digests(stage, self.config.vfi.kind) for stage in STAGES)])

    def digests(self, stage: str, vfi_kind: InterpolatorKind) -> dict[str, str]:
        """Return the digests of the parts that a stage's output depends on, each computed once."""
        parts: dict[str, Any]
        if stage == "t2i":
            parts = {name: part for name, part in self.t2i.components.items() if part is not None}
        elif stage == "vfi":
            parts = {} if vfi_kind in ("blend", "repeat") else {"interpolator": self.interpolator(vfi_kind)}
        else:
            self.components.use_appearance(stage)
            pipe = self.i2v if stage == "i2v" else self.v2v
            parts = {name: getattr(pipe, name) for name in (*VIDEO_PARTS, "unet")}
        for name, part in parts.items():
            place = f"{stage}.{name}.{vfi_kind if stage == 'vfi' else ''}"
            if place not in self._digests:
                # Image attentions hang on the backbone that text-to-image shares, and stay silent there.
                self._digests[place] = part_digest(part, without=".processor." if stage == "t2i" else None)
            parts[name] = self._digests[place]
        return parts


def _read_config(folder: Path, name: str) -> PipelineConfig:
    """Return the configuration that ``save_pretrained`` wrote, for the place where the folder is now."""
    path = folder / CONFIG_FILE
    if not path.exists():
        raise MagicVideoError(f"{folder} is no MagicVideo checkpoint: it has no {CONFIG_FILE}")
    try:
        values = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise MagicVideoError(f"{path} cannot be read as JSON: {error}") from error
    config = replace(PipelineConfig.from_dict(values), checkpoint=name)
    if config.t2i.model is not None and (folder / OWN_T2I).is_dir():
        config = replace(config, t2i=replace(config.t2i, model=str(folder / OWN_T2I)))
    return config


def write_stages(folder: Path, result: VideoResult, keyframe_fps: int) -> None:
    """Write the reference image (``t2i.png``) and each later stage's video (``i2v.mp4``, ...) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = result.stages["t2i"][0].permute(1, 2, 0).numpy()
    Image.fromarray(reference).save(folder / "t2i.png")
    for stage in ("i2v", "v2v"):
        write_video(folder / f"{stage}.mp4", result.stages[stage], Fraction(keyframe_fps))
    write_video(folder / "vfi.mp4", result.stages["vfi"], result.fps)


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return the torch dtype of a name.

    Raises:
        MagicVideoError: another name; the known ones are listed.
    """
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in known:
        raise MagicVideoError(f"unknown dtype {dtype!r}; known: {', '.join(known)}")
    return known[dtype]


def check_device(device: str) -> None:
    """Refuse a device that torch cannot use here.

    Raises:
        MagicVideoError: no such device.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MagicVideoError(f"device {device!r} cannot be used here; try --device cpu") from error
