"""MagicVideo-V2 whole: a prompt through T2I, I2V, V2V and VFI, each stage seeded, recorded and reused by digest."""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from magicvideo.appearance import set_appearance_scale
from magicvideo.backbone import check_num_frames
from magicvideo.components import Components, load_components, locate, save_components
from magicvideo.config import PipelineConfig, digest_of
from magicvideo.errors import MagicVideoError
from magicvideo.i2v import MagicVideoI2V
from magicvideo.presets import PRESETS, ablate, check_source, preset
from magicvideo.reference import Reference
from magicvideo.v2v import MagicVideoV2V, check_strength, resize_frames
from magicvideo.vfi.baselines import fade, hold
from magicvideo.vfi.interpolator import interpolate
from magicvideo.video import write_video

STAGES = ("t2i", "i2v", "v2v", "vfi")
CONFIG_FILE = "magicvideo.json"
CACHE_SIZE = 12


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What a stage did: ``digest`` identifies its output by what it was made from."""

    stage: str
    seed: int
    digest: str
    seconds: float
    reused: bool


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """A finished video.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8, sRGB.
        fps: frames per second.
        stages: output of each stage, ``(T, 3, h, w)`` uint8: ``t2i`` (one frame), ``i2v``, ``v2v``, ``vfi``.
    """

    prompt: str
    frames: torch.Tensor
    fps: Fraction
    records: list[StageRecord]
    stages: dict[str, torch.Tensor]


class MagicVideoPipeline:
    """Text to video in four stages.

    Example::

        pipe = MagicVideoPipeline.from_pretrained("sprites")
        result = pipe("a large red star spinning on a sunset background", seed=0)
        write_video("star.mp4", result.frames, result.fps)
    """

    def __init__(self, components: Components, config: PipelineConfig) -> None:
        """Build the stages from loaded parts; the spatial layers of I2V and V2V are the same objects."""
        check_num_frames(components.i2v_motion, config.i2v.num_frames)
        check_num_frames(components.v2v_motion, config.i2v.num_frames)
        self.components, self.config = components, config
        self._cache: OrderedDict[str, torch.Tensor] = OrderedDict()
        shared = {
            "vae": components.vae,
            "text_encoder": components.text_encoder,
            "tokenizer": components.tokenizer,
            "scheduler": components.scheduler,
            "feature_extractor": components.feature_extractor,
            "image_encoder": components.image_encoder,
        }
        self.t2i = StableDiffusionPipeline(
            **shared, unet=components.unet, safety_checker=None, requires_safety_checker=False
        )
        video = shared | {"controlnet": components.controlnet}
        self.i2v = MagicVideoI2V(**video, unet=components.i2v_unet, motion_adapter=components.i2v_motion)
        self.v2v = MagicVideoV2V(**video, unet=components.v2v_unet, motion_adapter=components.v2v_motion)
        for pipe in (self.t2i, self.i2v, self.v2v):
            pipe.set_progress_bar_config(disable=True)

    @classmethod
    def from_pretrained(
        cls, name: str, *, device: str = "cpu", dtype: torch.dtype | str = torch.float32
    ) -> "MagicVideoPipeline":
        """Load a preset by name, or a folder or hub id that ``save_pretrained`` wrote.

        Raises:
            MagicVideoError: nothing of that name, or a checkpoint that is incomplete or does not fit.
        """
        if name in PRESETS:
            return cls.from_preset(name, device=device, dtype=dtype)
        check_source(name)
        folder = locate(name)
        path = folder / CONFIG_FILE
        if not path.exists():
            raise MagicVideoError(f"{folder} is no MagicVideo checkpoint: it has no {CONFIG_FILE}")
        config = PipelineConfig.from_dict(json.loads(path.read_text()))
        return cls(load_components(folder), config).to(device, dtype)

    @classmethod
    def from_preset(
        cls, name: str, *, device: str = "cpu", dtype: torch.dtype | str = torch.float32
    ) -> "MagicVideoPipeline":
        """Load a preset and the checkpoint it names."""
        config = preset(name)
        return cls(load_components(locate(config.checkpoint)), config).to(device, dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configuration so that ``from_pretrained(folder)`` gives an equal pipeline."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_components(self.components, folder)
        config = replace(self.config, checkpoint=str(folder))
        (folder / CONFIG_FILE).write_text(json.dumps(config.to_dict(), indent=2) + "\n")

    def to(self, device: str, dtype: torch.dtype | str = torch.float32) -> "MagicVideoPipeline":
        """Move every module to ``device`` and ``dtype``.

        Raises:
            MagicVideoError: the device is not there, or the dtype is not one of float32, float16, bfloat16.
        """
        wanted = parse_dtype(dtype)
        check_device(device)
        for module in self.components.modules().values():
            module.to(torch.device(device), wanted)
        return self

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str,
        *,
        seed: int = 0,
        arm: str = "full",
        progress: bool = True,
    ) -> VideoResult:
        """Make one video.

        Args:
            prompt: what it shows.
            seed: every stage derives its own generator from it, so that switching one stage off leaves the
                noise and output of the stages before it unchanged.
            arm: an ablation arm (see ``magicvideo.presets.ARMS``).
            progress: show a bar over the stages.

        Raises:
            MagicVideoError: an empty prompt, an unknown arm, or settings that no video can come from.
        """
        if not prompt.strip():
            raise MagicVideoError("the prompt is empty; say what the video shows")
        config = ablate(self.config, arm)
        if config.v2v.enabled:
            check_strength(config.v2v.strength, config.v2v.num_inference_steps)
        run = _Run(self, config, prompt, seed)
        with tqdm(total=len(STAGES), desc=prompt[:40], disable=not progress, leave=False) as bar:
            for stage in STAGES:
                bar.set_postfix_str(stage)
                run.stage(stage)
                bar.update()
        fps = Fraction(config.fps)
        return VideoResult(
            prompt=prompt, frames=run.stages["vfi"], fps=fps, records=run.records, stages=run.stages
        )


class _Run:
    """One prompt on its way through the stages."""

    def __init__(self, pipe: MagicVideoPipeline, config: PipelineConfig, prompt: str, seed: int) -> None:
        self.pipe, self.config, self.prompt, self.seed = pipe, config, prompt, seed
        self.stages: dict[str, torch.Tensor] = {}
        self.records: list[StageRecord] = []
        self._reference: Reference | None = None

    def stage(self, name: str) -> None:
        """Run a stage, or take its output from the cache; the key is all that its output depends on."""
        start = time.perf_counter()
        upstream = self.records[-1].digest if self.records else digest_of([self.prompt, self.seed])
        first = self.records[0].digest if self.records else ""
        key = digest_of([name, asdict(getattr(self.config, name)), upstream, first])
        cached = self.pipe._cache.get(key)
        work: Callable[[], torch.Tensor] = getattr(self, f"_{name}")
        frames = work() if cached is None else cached
        self.pipe._cache[key] = frames
        self.pipe._cache.move_to_end(key)
        while len(self.pipe._cache) > CACHE_SIZE:
            self.pipe._cache.popitem(last=False)
        self.stages[name] = frames
        self.records.append(
            StageRecord(
                stage=name,
                seed=stage_seed(self.seed, name),
                digest=key,
                seconds=round(time.perf_counter() - start, 3),
                reused=cached is not None,
            )
        )

    @property
    def reference(self) -> Reference:
        if self._reference is None:
            pixels = self.stages["t2i"][0].permute(1, 2, 0).cpu().numpy()
            self._reference = Reference(Image.fromarray(pixels), self.pipe.components.feature_extractor)
        return self._reference

    def generator(self, stage: str) -> torch.Generator:
        return torch.Generator().manual_seed(stage_seed(self.seed, stage))

    def _t2i(self) -> torch.Tensor:
        settings = self.config.t2i
        image = self.pipe.t2i(
            self.prompt,
            negative_prompt="",
            height=settings.size,
            width=settings.size,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=self.generator("t2i"),
            output_type="np",
        ).images
        return to_uint8(torch.from_numpy(np.asarray(image)).permute(0, 3, 1, 2))

    def _i2v(self) -> torch.Tensor:
        settings = self.config.i2v
        set_appearance_scale(self.pipe.components.i2v_unet, settings.appearance_scale)
        return to_uint8(
            self.pipe.i2v.animate(
                self.prompt,
                self.reference,
                num_frames=settings.num_frames,
                size=settings.size,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                prior=settings.prior,
                controlnet_scale=settings.controlnet_scale,
                generator=self.generator("i2v"),
            )
        )

    def _v2v(self) -> torch.Tensor:
        settings = self.config.v2v
        keyframes = self.stages["i2v"].float() / 255
        if not settings.enabled:
            return to_uint8(resize_frames(keyframes, settings.size))
        set_appearance_scale(self.pipe.components.v2v_unet, settings.appearance_scale)
        return to_uint8(
            self.pipe.v2v.refine(
                self.prompt,
                keyframes,
                self.reference,
                size=settings.size,
                strength=settings.strength,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                controlnet_scale=settings.controlnet_scale,
                generator=self.generator("v2v"),
            )
        )

    def _vfi(self) -> torch.Tensor:
        keyframes = self.stages["v2v"].float() / 255
        model = self.pipe.components.interpolator
        predict = {"edsc": model.predict, "blend": fade, "repeat": hold}[self.config.vfi.kind]
        return to_uint8(interpolate(keyframes, self.config.vfi.factor, predict))


def write_stages(folder: Path, result: VideoResult, keyframe_fps: int) -> None:
    """Write the reference image (``t2i.png``) and each later stage's video (``i2v.mp4``, ...) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = result.stages["t2i"][0].permute(1, 2, 0).numpy()
    Image.fromarray(reference).save(folder / "t2i.png")
    for stage in ("i2v", "v2v"):
        write_video(folder / f"{stage}.mp4", result.stages[stage], Fraction(keyframe_fps))
    write_video(folder / "vfi.mp4", result.stages["vfi"], result.fps)


def stage_seed(seed: int, stage: str) -> int:
    """Return the seed of one stage's generator, a fixed function of the video's seed and the stage's name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}".encode()).digest()[:7], "big")


def to_uint8(frames: torch.Tensor) -> torch.Tensor:
    """Map floats in [0, 1] to uint8, rounding."""
    return (frames.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


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
