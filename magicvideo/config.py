"""What a pipeline does, stage by stage: frozen, checked on construction, identified by a digest."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args

from magicvideo.errors import MagicVideoError

PriorKind = Literal["none", "shift", "matched", "decay", "mixed"]
InterpolatorKind = Literal["edsc", "blend", "repeat"]


@dataclass(frozen=True, kw_only=True)
class T2IConfig:
    """Text to image: the reference image."""

    size: int = 264
    num_inference_steps: int = 20
    guidance_scale: float = 2.5

    def __post_init__(self) -> None:
        _check_size("t2i.size", self.size)
        _check_positive("t2i.num_inference_steps", self.num_inference_steps)


@dataclass(frozen=True, kw_only=True)
class I2VConfig:
    """Image to video: low-resolution keyframes."""

    size: int = 152
    num_frames: int = 32
    num_inference_steps: int = 10
    guidance_scale: float = 4.0
    prior: PriorKind = "mixed"
    controlnet_scale: float = 1.0
    appearance_scale: float = 1.0

    def __post_init__(self) -> None:
        _check_size("i2v.size", self.size)
        _check_positive("i2v.num_frames", self.num_frames)
        _check_positive("i2v.num_inference_steps", self.num_inference_steps)
        _check_choice("i2v.prior", self.prior, get_args(PriorKind))


@dataclass(frozen=True, kw_only=True)
class V2VConfig:
    """Video to video: high-resolution keyframes; switched off, they are resized bicubically."""

    enabled: bool = True
    size: int = 264
    strength: float = 0.4
    num_inference_steps: int = 10
    guidance_scale: float = 1.0
    controlnet_scale: float = 1.0
    appearance_scale: float = 1.0

    def __post_init__(self) -> None:
        _check_size("v2v.size", self.size)
        _check_positive("v2v.num_inference_steps", self.num_inference_steps)


@dataclass(frozen=True, kw_only=True)
class VFIConfig:
    """Frame interpolation: ``factor - 1`` frames between two keyframes."""

    kind: InterpolatorKind = "edsc"
    factor: int = 3

    def __post_init__(self) -> None:
        _check_choice("vfi.kind", self.kind, get_args(InterpolatorKind))
        _check_positive("vfi.factor", self.factor)


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """All four stages; ``keyframe_fps`` times ``vfi.factor`` is the rate of the finished video."""

    name: str
    checkpoint: str
    t2i: T2IConfig = field(default_factory=T2IConfig)
    i2v: I2VConfig = field(default_factory=I2VConfig)
    v2v: V2VConfig = field(default_factory=V2VConfig)
    vfi: VFIConfig = field(default_factory=VFIConfig)
    keyframe_fps: int = 10

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


def _from_dict(cls: Any, values: dict[str, Any], where: str) -> Any:
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
    except TypeError as error:
        raise MagicVideoError(f"{where} is incomplete: {error}") from error


def _check_size(name: str, size: int) -> None:
    if size < 16 or size % 8:
        raise MagicVideoError(f"{name} must be a multiple of 8 and at least 16, got {size}")


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise MagicVideoError(f"{name} must be at least 1, got {value}")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise MagicVideoError(f"unknown {name} {value!r}; known: {', '.join(known)}")
