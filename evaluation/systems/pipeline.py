"""Our own pipeline as systems: each arm of a preset is one."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evaluation.systems.base import Clip

if TYPE_CHECKING:
    from magicvideo.pipeline import MagicVideoPipeline


class Pipeline:
    """A preset's pipeline, loaded when first needed and shared by its arms."""

    def __init__(self, preset: str, *, device: str = "cpu") -> None:
        self.preset = preset
        self.device = device

    @cached_property
    def loaded(self) -> "MagicVideoPipeline":
        """The pipeline with its weights."""
        from magicvideo.pipeline import MagicVideoPipeline

        return MagicVideoPipeline.from_preset(self.preset, device=self.device)

    def arms(self, *names: str) -> list["PipelineArm"]:
        """Return the arms ``names`` as systems."""
        return [PipelineArm(self, name) for name in names]


class PipelineArm:
    """One arm of a preset, e.g. ``sprites:-v2v``."""

    def __init__(self, pipeline: Pipeline, arm: str) -> None:
        self.pipeline = pipeline
        self.arm = arm
        self.name = f"{pipeline.preset}:{arm}"
        self.device = pipeline.device

    @property
    def config(self) -> Mapping[str, Any]:
        """The preset's config and the arm."""
        return {"arm": self.arm, "pipeline": self.pipeline.loaded.config.to_dict()}

    @property
    def config_digest(self) -> str:
        """Digest of the preset's config; the arm is in the name."""
        return self.pipeline.loaded.config.digest()

    def generate(self, prompt: str, seed: int) -> Clip:
        """Run the arm."""
        result = self.pipeline.loaded(prompt, seed=seed, arm=self.arm, progress=False)
        return Clip(result.frames.permute(0, 2, 3, 1).cpu().numpy(), result.fps)
