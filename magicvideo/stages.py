"""One prompt on its way through the stages: their keys, seeds, settings and records."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from magicvideo.appearance import PatchReference, set_appearance_scale, takes_patches
from magicvideo.backbone import set_group_norm
from magicvideo.config import PipelineConfig, digest_of
from magicvideo.execution import memory_errors, offloaded, peak_memory
from magicvideo.identity import library_versions
from magicvideo.reference import Reference
from magicvideo.stage_cache import sha256_of_tensor
from magicvideo.t2i import make_image, square_pixels
from magicvideo.v2v import resize_frames
from magicvideo.vfi.interpolator import interpolate

if TYPE_CHECKING:
    from magicvideo.pipeline import MagicVideoPipeline

STAGES = ("t2i", "i2v", "v2v", "vfi")
TITLES = {
    "t2i": "text-to-image",
    "i2v": "image-to-video",
    "v2v": "video-to-video",
    "vfi": "frame interpolation",
}

VFI_PIXELS = 600_000  # small frames are interpolated several gaps at once, large ones gap by gap


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What a stage did.

    Attributes:
        stage: its name.
        seed: of its generator.
        digest: identifies its output by all that it was made from: settings, seed, what came before, weights.
        seconds: it took.
        reused: whether the output came from the cache.
        peak_memory: bytes at the worst moment (see ``magicvideo.execution.peak_memory``); None if reused.
    """

    stage: str
    seed: int
    digest: str
    seconds: float
    reused: bool
    peak_memory: int | None


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """A finished video.

    Attributes:
        prompt: what it was made from.
        frames: ``(T, 3, H, W)`` uint8, sRGB.
        fps: frames per second.
        records: one for each stage.
        stages: output of each stage, ``(T, 3, h, w)`` uint8: ``t2i`` (one frame), ``i2v``, ``v2v``, ``vfi``.
    """

    prompt: str
    frames: torch.Tensor
    fps: Fraction
    records: list[StageRecord]
    stages: dict[str, torch.Tensor]


class StageRun:
    """One prompt on its way through the stages."""

    def __init__(
        self,
        pipe: "MagicVideoPipeline",
        config: PipelineConfig,
        prompt: str,
        seed: int,
        image: Image.Image | None,
    ) -> None:
        self.pipe, self.config, self.prompt, self.seed = pipe, config, prompt, seed
        self.image = None if image is None else square_pixels(image, config.t2i.size)
        self.stages: dict[str, torch.Tensor] = {}
        self.records: list[StageRecord] = []
        self._references: dict[type[Reference], Reference] = {}

    def stage(self, name: str) -> None:
        """Run a stage, or take its output from the cache; the key is all that its output depends on."""
        start = time.perf_counter()
        key = self._key(name)
        frames = self.pipe.cache.get(key)
        reused, peak = frames is not None, None
        if frames is None:
            work: Callable[[], torch.Tensor] = getattr(self, f"_{name}")
            with memory_errors(TITLES[name]), peak_memory(self.pipe.device) as measured:
                frames = work()
            peak = measured.bytes
            self.pipe.cache.put(key, frames)
        self.stages[name] = frames
        self.records.append(
            StageRecord(
                stage=name,
                seed=stage_seed(self.seed, name),
                digest=key,
                seconds=round(time.perf_counter() - start, 3),
                reused=reused,
                peak_memory=peak,
            )
        )

    def _key(self, name: str) -> str:
        before = [record.digest for record in self.records]
        if name == "t2i" and self.image is not None:
            return digest_of([name, "given", sha256_of_tensor(to_uint8(self.image))])
        settings = asdict(getattr(self.config, name))
        settings.pop("model", None)  # the digests of its parts say more
        switched_off = not settings.get("enabled", True)
        if switched_off:
            settings = {key: settings[key] for key in ("size", "num_frames") if key in settings}
        parts = {} if switched_off else self.pipe.digests(name, self.config.vfi.kind)
        inputs = before[-1:] if name == "vfi" or switched_off else [self.prompt, self.seed, *before]
        return digest_of(
            [name, settings, inputs, parts, library_versions(), self.pipe.device.type, str(self.pipe.dtype)]
        )

    def reference(self, stage: str) -> Reference:
        """Return the reference image, encoded as the stage's appearance encoder reads it."""
        unet = self.pipe.i2v.unet if stage == "i2v" else self.pipe.v2v.unet
        cls = PatchReference if takes_patches(unet) else Reference
        if cls not in self._references:
            pixels = self.stages["t2i"][0].permute(1, 2, 0).numpy()
            self._references[cls] = cls(Image.fromarray(pixels), self.pipe.components.feature_extractor)
        return self._references[cls]

    def generator(self, stage: str) -> torch.Generator:
        return torch.Generator().manual_seed(stage_seed(self.seed, stage))

    def _t2i(self) -> torch.Tensor:
        if self.image is not None:
            return to_uint8(self.image)
        with offloaded(self.pipe.t2i, self.pipe.execution.offload, self.pipe.device):
            return to_uint8(make_image(self.pipe.t2i, self.prompt, self.config.t2i, self.generator("t2i")))

    def _i2v(self) -> torch.Tensor:
        settings = self.config.i2v
        if not settings.enabled:
            still = resize_frames(self.stages["t2i"].float() / 255, settings.size)
            return to_uint8(still).repeat(settings.num_frames, 1, 1, 1)
        self._prepare("i2v")
        with offloaded(self.pipe.i2v, self.pipe.execution.offload, self.pipe.device):
            frames = self.pipe.i2v.animate(
                self.prompt,
                self.reference("i2v"),
                num_frames=settings.num_frames,
                size=settings.size,
                prior=settings.prior,
                prior_strength=settings.prior_strength,
                **self._denoising("i2v"),
            )
        return to_uint8(frames)

    def _v2v(self) -> torch.Tensor:
        settings = self.config.v2v
        keyframes = self.stages["i2v"].float() / 255
        if not settings.enabled:
            return to_uint8(resize_frames(keyframes, settings.size))
        self._prepare("v2v")
        with offloaded(self.pipe.v2v, self.pipe.execution.offload, self.pipe.device):
            frames = self.pipe.v2v.refine(
                self.prompt,
                keyframes,
                self.reference("v2v"),
                size=settings.size,
                strength=settings.strength,
                **self._denoising("v2v"),
            )
        return to_uint8(frames)

    def _prepare(self, stage: str) -> None:
        """Set what the stages' shared and own layers are told by attributes."""
        settings, unet = getattr(self.config, stage), getattr(self.pipe, stage).unet
        self.pipe.components.use_appearance(stage)
        set_appearance_scale(unet, settings.appearance_scale)
        set_group_norm(unet, settings.group_norm)

    def _denoising(self, stage: str) -> dict[str, Any]:
        settings, execution = getattr(self.config, stage), self.pipe.execution
        return {
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
            "guidance_on": settings.guidance_on,
            "controlnet_scale": settings.controlnet_scale,
            "control_guidance_end": settings.control_guidance_end,
            "generator": self.generator(stage),
            "decode_chunk_size": execution.decode_chunk_size,
            "guidance": execution.guidance,
        }

    def _vfi(self) -> torch.Tensor:
        settings, pipe = self.config.vfi, self.pipe
        predict = pipe.predictor(settings.kind)
        keyframes = self.stages["v2v"].float() / 255
        if settings.kind in ("blend", "repeat"):
            return to_uint8(interpolate(keyframes, settings.factor, predict), spread=True)
        # Frames stay float32, whatever the weights: half precision would shift some of their 256 levels.
        chunk = max(1, VFI_PIXELS // (keyframes.shape[-1] * keyframes.shape[-2]))
        with offloaded(pipe.interpolator(settings.kind), pipe.execution.offload, pipe.device):
            frames = interpolate(keyframes.to(pipe.device), settings.factor, predict, chunk=chunk)
        return to_uint8(frames, spread=True)


def stage_seed(seed: int, stage: str) -> int:
    """Return the seed of one stage's generator, a fixed function of the video's seed and the stage's name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}".encode()).digest()[:7], "big")


def to_uint8(frames: torch.Tensor, *, spread: bool = False) -> torch.Tensor:
    """Map floats in [0, 1] to uint8, rounding.

    Args:
        frames: ``(..., H, W)``.
        spread: round by thresholds that differ from place to place and not in time. By one threshold, keyframes that
            differ by one level differ all at once in the middle of the gap; so each place changes at a time of its own.
            Whole levels stay what they are.
    """
    levels = frames.float().clamp(0, 1) * 255
    if spread:
        levels = (levels + _thresholds(levels.shape[-2], levels.shape[-1], levels.device)).floor()
    return levels.round().to(torch.uint8).cpu()


def _thresholds(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return ``(H, W)``, evenly spread over (0, 1): a wave in place, so smooth that it adds no grain."""
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    return 0.01 + 0.98 * (2 * (x / 24 + y / 40).frac() - 1).abs()
