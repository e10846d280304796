"""Our own pipeline as systems: a preset or checkpoint folder, ablation arms, and changes of single settings."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from evaluation.errors import EvaluationError
from evaluation.systems.base import Clip, Details, digest_of
from evaluation.yaml_file import misfit

if TYPE_CHECKING:
    from magicvideo.config import PipelineConfig
    from magicvideo.pipeline import MagicVideoPipeline

STAGES = ("t2i", "i2v", "v2v", "vfi")


class MagicVideoSpec(BaseModel):
    """Our pipeline in a bench file.

    Attributes:
        preset: a preset or a folder that ``save_pretrained`` wrote.
        arms: ablation arms, applied one after the other, e.g. ``[-v2v, -vfi]``.
        changes: settings of stages, e.g. ``{v2v.strength: 0.3}``, applied after the arms.
        until: stop after this stage; its own output is the video.
        parts: sources of single parts.
        dtype: of the weights.
        low_memory: trade speed for memory; the same video up to rounding.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: str = "sprites"
    arms: tuple[str, ...] = ()
    changes: dict[str, bool | int | float | str | None] = {}
    until: Literal["i2v", "v2v", "vfi"] = "vfi"
    parts: dict[str, str] = {}
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    low_memory: bool = False

    @model_validator(mode="after")
    def _exists(self) -> Self:
        from magicvideo.errors import MagicVideoError
        from magicvideo.presets import with_parts

        key = "preset"
        try:
            config = config_of(self.preset)
            key = "parts"
            with_parts(config, self.parts)
            key = "arms"
            config = changed(config, self.arms, {})
            key = "changes"
            changed(config, (), self.changes)
        except (EvaluationError, MagicVideoError) as error:
            raise misfit(str(error), key) from error
        return self


class Pipeline:
    """A preset's pipeline, loaded when its first video is made and shared by its arms."""

    def __init__(
        self,
        preset: str,
        *,
        device: str = "cpu",
        parts: Mapping[str, str] | None = None,
        dtype: str = "float32",
        low_memory: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        """Name a preset or a checkpoint folder.

        Args:
            preset: its name.
            device: where it runs.
            parts: sources of single parts.
            dtype: of the weights.
            low_memory: trade speed for memory.
            cache_dir: keeps the stages' outputs for other processes.

        Raises:
            magicvideo.errors.MagicVideoError: an unknown preset or part.
        """
        from magicvideo.presets import with_parts

        self.preset, self.device, self.dtype = preset, device, dtype
        self.low_memory, self.cache_dir = low_memory, cache_dir
        self.config = with_parts(config_of(preset), parts or {})

    @cached_property
    def loaded(self) -> "MagicVideoPipeline":
        """The pipeline with its weights."""
        from magicvideo.execution import Execution
        from magicvideo.pipeline import MagicVideoPipeline

        execution = Execution()
        if self.low_memory:
            offload: Literal["none", "model"] = "none" if self.device == "cpu" else "model"
            execution = Execution(guidance="sequential", decode_chunk_size=1, offload=offload)
        return MagicVideoPipeline.from_config(
            self.config, device=self.device, dtype=self.dtype, execution=execution, cache_dir=self.cache_dir
        )

    def variant(self, config: "PipelineConfig") -> "MagicVideoPipeline":
        """Return a pipeline of another config over the same weights and the same cache of stages."""
        from magicvideo.pipeline import MagicVideoPipeline

        if config == self.config:
            return self.loaded
        base = self.loaded
        pipe = MagicVideoPipeline(base.components, config, execution=base.execution, cache_dir=self.cache_dir)
        pipe.cache = base.cache
        return pipe.to(self.device, self.dtype)

    @cached_property
    def weights(self) -> str:
        """Digest of the checkpoint's files, or its name where it is not on this machine yet."""
        checkpoint = self.config.checkpoint
        package = Path(str(files("magicvideo")))
        name = checkpoint.removeprefix("embedded:")
        folder = package / "weights" / name if name != checkpoint else Path(checkpoint)
        known = bool(checkpoint) and folder.is_dir()
        digest = hashlib.sha256(b"" if known else checkpoint.encode())
        for path in sorted(folder.rglob("*")) if known else ():
            if path.is_file():
                digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def arms(self, *names: str) -> list["PipelineArm"]:
        """Return the arms ``names`` as systems.

        Raises:
            magicvideo.errors.MagicVideoError: an unknown arm.
        """
        return [PipelineArm(self, (name,)) for name in names]


class PipelineArm:
    """One arm of a preset, e.g. ``sprites:-v2v``."""

    def __init__(
        self,
        pipeline: Pipeline,
        arms: Sequence[str] = (),
        *,
        changes: Mapping[str, Any] | None = None,
        until: str = "vfi",
        name: str | None = None,
    ) -> None:
        """Change a pipeline's config; see ``MagicVideoSpec``.

        Raises:
            magicvideo.errors.MagicVideoError: an unknown arm, or a value out of range.
            EvaluationError: a change of an unknown setting.
        """
        self.pipeline, self.until = pipeline, until
        self.pipeline_config = changed(pipeline.config, arms, changes or {})
        self.name = name or f"{pipeline.preset}:{','.join(arms) or 'full'}"
        self.device = pipeline.device
        self.group = f"magicvideo:{pipeline.preset}"
        self.config: dict[str, Any] = {
            "pipeline": self.pipeline_config.to_dict(),
            "weights": pipeline.weights,
            "until": until,
            "dtype": pipeline.dtype,
        }

    @property
    def config_digest(self) -> str:
        """Digest of the arm's settings and of the weights."""
        return digest_of(self.config)

    @cached_property
    def _loaded(self) -> "MagicVideoPipeline":
        return self.pipeline.variant(self.pipeline_config)

    def generate(self, prompt: str, seed: int) -> Clip:
        """Run the arm; stages that arms of one prompt and seed have in common run once."""
        result = self._loaded(prompt, seed=seed, progress=False)
        config = self.pipeline_config
        fps = result.fps if self.until == "vfi" else Fraction(config.keyframe_fps)
        frames = result.stages[self.until].permute(0, 2, 3, 1).cpu().numpy()
        details = Details(
            model=f"magicvideo {self.pipeline.preset} {self.pipeline.weights[:12]}",
            requested={"width": config.v2v.size, "height": config.v2v.size, "fps": config.fps},
            stages=tuple(asdict(record) for record in result.records),
        )
        return Clip(frames, fps, details)


def changed(config: "PipelineConfig", arms: Sequence[str], changes: Mapping[str, Any]) -> "PipelineConfig":
    """Return ``config`` with arms applied in order, then single settings.

    Raises:
        magicvideo.errors.MagicVideoError: an unknown arm, or a value out of range.
        EvaluationError: an unknown setting; the known ones of its stage are listed.
    """
    from dataclasses import fields, replace

    from magicvideo.config import change
    from magicvideo.presets import ablate

    for arm in arms:
        config = ablate(config, arm)
    by_stage: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        if path == "keyframe_fps":
            config = replace(config, keyframe_fps=value)
            continue
        stage, _, key = path.partition(".")
        if stage not in STAGES:
            raise EvaluationError(
                f"unknown setting {path!r}; write STAGE.KEY with a stage of {', '.join(STAGES)}, or keyframe_fps"
            )
        known = [item.name for item in fields(getattr(config, stage))]
        if key not in known:
            raise EvaluationError(f"unknown setting {path!r}; {stage} has {', '.join(known)}")
        by_stage.setdefault(stage, {})[key] = value
    for stage, values in by_stage.items():
        config = change(config, stage, **values)
    return config


def config_of(preset: str) -> "PipelineConfig":
    """Return the config of a preset or checkpoint folder.

    Raises:
        magicvideo.errors.MagicVideoError: neither of these.
    """
    from dataclasses import replace

    from magicvideo.config import PipelineConfig
    from magicvideo.presets import PRESETS
    from magicvideo.presets import preset as preset_config

    described = Path(preset) / "magicvideo.json"
    if preset in PRESETS or not described.is_file():
        return preset_config(preset)
    try:
        values = json.loads(described.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{described} cannot be read as JSON: {error}") from error
    return replace(PipelineConfig.from_dict(values), checkpoint=preset)
