"""Our own pipeline as systems: each arm of a preset is one."""

import hashlib
import json
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.systems.base import Clip

if TYPE_CHECKING:
    from magicvideo.pipeline import MagicVideoPipeline


class Pipeline:
    """A preset's pipeline, loaded when its first video is made and shared by its arms."""

    def __init__(self, preset: str, *, device: str = "cpu") -> None:
        """Name a preset.

        Raises:
            magicvideo.errors.MagicVideoError: an unknown preset.
        """
        from magicvideo.presets import preset as preset_config

        self.preset = preset
        self.device = device
        self.config = preset_config(preset)

    @cached_property
    def loaded(self) -> "MagicVideoPipeline":
        """The pipeline with its weights."""
        from magicvideo.pipeline import MagicVideoPipeline

        return MagicVideoPipeline.from_preset(self.preset, device=self.device)

    @cached_property
    def weights(self) -> str:
        """Digest of the checkpoint's files, or its name where it is not on this machine yet."""
        checkpoint = self.config.checkpoint
        package = Path(str(files("magicvideo")))
        name = checkpoint.removeprefix("embedded:")
        folder = package / "weights" / name if name != checkpoint else Path(checkpoint)
        digest = hashlib.sha256(b"" if folder.is_dir() else checkpoint.encode())
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_file():
                digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def arms(self, *names: str) -> list["PipelineArm"]:
        """Return the arms ``names`` as systems.

        Raises:
            magicvideo.errors.MagicVideoError: an unknown arm.
        """
        return [PipelineArm(self, name) for name in names]


class PipelineArm:
    """One arm of a preset, e.g. ``sprites:-v2v``."""

    def __init__(self, pipeline: Pipeline, arm: str) -> None:
        from magicvideo.presets import ablate

        self.pipeline = pipeline
        self.arm = arm
        self.name = f"{pipeline.preset}:{arm}"
        self.device = pipeline.device
        self.config: dict[str, Any] = {
            "arm": arm,
            "pipeline": ablate(pipeline.config, arm).to_dict(),
            "weights": pipeline.weights,
        }

    @property
    def config_digest(self) -> str:
        """Digest of the arm's settings and of the weights."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def generate(self, prompt: str, seed: int) -> Clip:
        """Run the arm; stages that arms of one prompt and seed have in common run once."""
        result = self.pipeline.loaded(prompt, seed=seed, arm=self.arm, progress=False)
        return Clip(result.frames.permute(0, 2, 3, 1).cpu().numpy(), result.fps)
