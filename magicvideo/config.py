"""What a pipeline does, stage by stage: frozen, checked on construction, identified by a digest.

How a pipeline runs (device, offloading, chunks, compilation) is `magicvideo.execution`'s business and no part of
a configuration: two runs of one configuration make the same video.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args

from magicvideo.errors import MagicVideoError

PriorKind = Literal["none", "shift", "matched", "decay", "mixed", "frameinit"]
InterpolatorKind = Literal["combined", "ema", "edsc", "blend", "repeat"]
GroupNormKind = Literal["joint", "per-frame"]
GuidanceOn = Literal["text", "text and image"]

PART_NAMES = (
    "vae",
    "tokenizer",
    "text_encoder",
    "unet",
    "scheduler",
    "image_encoder",
    "feature_extractor",
    "appearance",
    "controlnet",
    "i2v_motion",
    "v2v_motion",
    "v2v_appearance",
    "v2v_controlnet",
    "interpolator",
    "ema",
    "edsc",
    "vqgan",
)


@dataclass(frozen=True, kw_only=True)
class T2IConfig:
    """Text to image: the reference image.

    Attributes:
        model: a diffusers text-to-image pipeline by hub id or folder; None is the checkpoint's own backbone.
    """

    model: str | None = None
    size: int = 264
    num_inference_steps: int = 20
    guidance_scale: float = 2.5

    def __post_init__(self) -> None:
        if self.model is not None and not (isinstance(self.model, str) and self.model.strip()):
            raise MagicVideoError(f"t2i.model must be a hub id, a folder or nothing, got {self.model!r}")
        _check_size("t2i.size", self.size)
        _check_whole("t2i.num_inference_steps", self.num_inference_steps)
        _check_range("t2i.guidance_scale", self.guidance_scale)


@dataclass(frozen=True, kw_only=True)
class I2VConfig:
    """Image to video: low-resolution keyframes; switched off, the reference image stands still.

    Attributes:
        guidance_on: what classifier-free guidance strengthens. Its other branch has an empty prompt and, with
            ``text and image`` (IP-Adapter's way), no reference image for the appearance encoder either. ControlNet
            sees the reference image in both.
        prior_strength: weight of the reference image's latent in the first noise; None is the share that the
            noise schedule itself leaves of it.
        control_guidance_end: share of the steps after which the ControlNet is silent.
        group_norm: statistics of the motion modules' normalisation: ``joint`` over the frames (diffusers) or
            ``per-frame`` (the original AnimateDiff).
    """

    enabled: bool = True
    size: int = 152
    num_frames: int = 32
    num_inference_steps: int = 10
    guidance_scale: float = 4.0
    guidance_on: GuidanceOn = "text and image"
    prior: PriorKind = "mixed"
    prior_strength: float | None = None
    controlnet_scale: float = 1.0
    control_guidance_end: float = 1.0
    appearance_scale: float = 1.0
    group_norm: GroupNormKind = "joint"

    def __post_init__(self) -> None:
        _check_size("i2v.size", self.size)
        _check_whole("i2v.num_frames", self.num_frames)
        _check_denoising("i2v", self)
        _check_choice("i2v.prior", self.prior, get_args(PriorKind))
        if self.prior_strength is not None:
            _check_range("i2v.prior_strength", self.prior_strength, most=1.0)


@dataclass(frozen=True, kw_only=True)
class V2VConfig:
    """Video to video: high-resolution keyframes; switched off, they are resized bicubically.

    What both stages have means the same as in ``I2VConfig``.
    """

    enabled: bool = True
    size: int = 264
    strength: float = 0.4
    num_inference_steps: int = 10
    guidance_scale: float = 1.0
    guidance_on: GuidanceOn = "text and image"
    controlnet_scale: float = 1.0
    control_guidance_end: float = 1.0
    appearance_scale: float = 1.0
    group_norm: GroupNormKind = "joint"

    def __post_init__(self) -> None:
        _check_size("v2v.size", self.size)
        _check_denoising("v2v", self)
        _check_range("v2v.strength", self.strength, most=1.0)
        if self.enabled and int(self.num_inference_steps * self.strength) < 1:
            raise MagicVideoError(
                f"V2V strength {self.strength} of {self.num_inference_steps} steps leaves no denoising step; "
                f"give a strength of at least {1 / self.num_inference_steps:.3g}, or switch V2V off"
            )


@dataclass(frozen=True, kw_only=True)
class VFIConfig:
    """Frame interpolation: ``factor - 1`` frames between two keyframes."""

    kind: InterpolatorKind = "combined"
    factor: int = 3

    def __post_init__(self) -> None:
        _check_choice("vfi.kind", self.kind, get_args(InterpolatorKind))
        _check_whole("vfi.factor", self.factor)


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """All four stages; ``keyframe_fps`` times ``vfi.factor`` is the rate of the finished video.

    Attributes:
        checkpoint: ``embedded:NAME``, a folder that ``save_pretrained`` wrote, or a hub id with such a folder;
            empty if ``parts`` name everything.
        parts: sources of single parts, in place of the checkpoint's: ``owner/name[:path inside]`` on the hub,
            or a local folder or file.
    """

    name: str
    checkpoint: str = ""
    parts: dict[str, str] = field(default_factory=dict, hash=False)
    t2i: T2IConfig = field(default_factory=T2IConfig)
    i2v: I2VConfig = field(default_factory=I2VConfig)
    v2v: V2VConfig = field(default_factory=V2VConfig)
    vfi: VFIConfig = field(default_factory=VFIConfig)
    keyframe_fps: int = 10

    def __post_init__(self) -> None:
        _check_whole("keyframe_fps", self.keyframe_fps)
        for name, source in self.parts.items():
            _check_choice("part", name, PART_NAMES)
            if not isinstance(source, str) or not source.strip():
                raise MagicVideoError(f"part {name!r} needs a hub id, a folder or a file, got {source!r}")
        if not self.checkpoint and not self.parts:
            raise MagicVideoError("the configuration names neither a checkpoint nor parts to make one of")

    @property
    def fps(self) -> int:
        """Frames per second of the finished video."""
        return self.keyframe_fps * self.vfi.factor

    @property
    def num_frames(self) -> int:
        """Frames of the finished video."""
        return (self.i2v.num_frames - 1) * self.vfi.factor + 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``from_dict`` takes them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PipelineConfig":
        """Build from plain values.

        Raises:
            MagicVideoError: an unknown key (the known ones are listed) or a value out of range.
        """
        return _from_dict(cls, values, "config")

    def digest(self) -> str:
        """Return 16 hexadecimal digits that identify this configuration."""
        return digest_of(self.to_dict())


def digest_of(values: object) -> str:
    """Return 16 hexadecimal digits of the canonical JSON of plain ``values``."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def change(config: PipelineConfig, stage: str, **values: Any) -> PipelineConfig:
    """Return ``config`` with some values of one stage replaced."""
    return replace(config, **{stage: replace(getattr(config, stage), **values)})


def _from_dict(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise MagicVideoError(f"{where} must be a mapping of keys to values, got {values!r}")
    known = {item.name: item for item in fields(cls)}
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise MagicVideoError(f"unknown key {unknown[0]!r} in {where}; known: {', '.join(known)}")
    stages = {"t2i": T2IConfig, "i2v": I2VConfig, "v2v": V2VConfig, "vfi": VFIConfig}
    arguments = {
        key: _from_dict(stages[key], value, f"{where}.{key}") if is_dataclass(stages.get(key)) else value
        for key, value in values.items()
    }
    try:
        return cls(**arguments)
    except (TypeError, AttributeError) as error:
        raise MagicVideoError(f"{where} is incomplete or malformed: {error}") from error


def _check_denoising(stage: str, settings: "I2VConfig | V2VConfig") -> None:
    """Check what the two video stages have in common."""
    if not isinstance(settings.enabled, bool):
        raise MagicVideoError(f"{stage}.enabled must be true or false, got {settings.enabled!r}")
    _check_whole(f"{stage}.num_inference_steps", settings.num_inference_steps)
    _check_range(f"{stage}.guidance_scale", settings.guidance_scale)
    _check_choice(f"{stage}.guidance_on", settings.guidance_on, get_args(GuidanceOn))
    _check_range(f"{stage}.controlnet_scale", settings.controlnet_scale)
    _check_range(f"{stage}.control_guidance_end", settings.control_guidance_end, most=1.0)
    _check_range(f"{stage}.appearance_scale", settings.appearance_scale)
    _check_choice(f"{stage}.group_norm", settings.group_norm, get_args(GroupNormKind))


def _check_size(name: str, size: int) -> None:
    if not _is_whole(size) or size < 16 or size % 8:
        raise MagicVideoError(f"{name} must be a multiple of 8 and at least 16, got {size!r}")


def _check_whole(name: str, value: int) -> None:
    if not _is_whole(value) or value < 1:
        raise MagicVideoError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_range(name: str, value: float, most: float = math.inf) -> None:
    number = isinstance(value, float) or _is_whole(value)
    if not number or not math.isfinite(value) or not 0 <= value <= most:
        span = "a finite number of at least 0" if most == math.inf else f"a number from 0 to {most:g}"
        raise MagicVideoError(f"{name} must be {span}, got {value!r}")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise MagicVideoError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
