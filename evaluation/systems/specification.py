"""A system in a bench file: exactly one adapter, or a card that names one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from evaluation.errors import EvaluationError
from evaluation.systems.base import System
from evaluation.systems.command import CommandSpec, CommandSystem
from evaluation.systems.diffusers_pipeline import DiffusersSpec, DiffusersSystem
from evaluation.systems.http_job import HttpJobSpec, http_system
from evaluation.systems.imported import ImportedSpec, ImportedSystem
from evaluation.systems.pipeline import MagicVideoSpec, Pipeline, PipelineArm
from evaluation.systems.python_function import PythonSpec, PythonSystem
from evaluation.systems.sdk import SdkSpec, sdk_system

ADAPTERS = ("magicvideo", "diffusers", "http_job", "sdk", "command", "python", "imported", "sprites_truth")


class SpritesTruthSpec(BaseModel):
    """The true clips of the sprites domain in a bench file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int = 264
    num_frames: int = 94
    fps: int = 30


class SystemSpec(BaseModel):
    """A system: one adapter with its settings, or ``card`` for the adapter of a shipped card."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    card: str | None = None
    magicvideo: MagicVideoSpec | None = None
    diffusers: DiffusersSpec | None = None
    http_job: HttpJobSpec | None = None
    sdk: SdkSpec | None = None
    command: CommandSpec | None = None
    python: PythonSpec | None = None
    imported: ImportedSpec | None = None
    sprites_truth: SpritesTruthSpec | None = None

    @field_validator("card")
    @classmethod
    def _known(cls, card: str | None) -> str | None:
        from evaluation.systems.card import card_names

        if card is not None and card not in card_names():
            raise ValueError(f"there is no such system card; known: {', '.join(card_names())}")
        return card

    @model_validator(mode="after")
    def _one_adapter(self) -> Self:
        given = [name for name in ADAPTERS if getattr(self, name) is not None]
        if len(given) != 1 and not (self.card and not given):
            raise ValueError(f"name exactly one of {', '.join(ADAPTERS)}, or a card")
        return self

    @property
    def adapter(self) -> str:
        """Name of the adapter, empty if the card decides."""
        return next((name for name in ADAPTERS if getattr(self, name) is not None), "")


def resolved(name: str, spec: SystemSpec) -> SystemSpec:
    """Return the spec of the system ``name`` with its adapter, which a card may decide.

    Raises:
        EvaluationError: the card is unknown, or has nothing that can run.
    """
    if spec.adapter:
        return spec
    from evaluation.systems.card import load_card

    card = load_card(str(spec.card))
    if card.run is None:
        raise EvaluationError(
            f"the card {spec.card} has nothing that can run ({card.availability}); import its videos: "
            f"{name}: {{card: {spec.card}, imported: {{folder: ...}}}}"
        )
    return card.run


@dataclass
class Builder:
    """Turns specs into systems; systems that share weights get the same loaded pipeline.

    Attributes:
        device: where systems run.
        base: folder that relative paths of specs are relative to.
        cache_dir: outputs of our pipeline's stages, shared between processes.
        tickets: what was submitted to providers.
        prompts: all that will be asked for.
    """

    device: str = "cpu"
    base: Path = field(default_factory=Path)
    cache_dir: Path | None = None
    tickets: Path | None = None
    prompts: Sequence[str] = ()
    pipelines: dict[str, Pipeline] = field(default_factory=dict, repr=False)

    def build(self, name: str, spec: SystemSpec) -> System:
        """Return the system ``name``.

        Raises:
            EvaluationError: the spec asks for something impossible.
            magicvideo.errors.MagicVideoError: an unknown preset, arm or part.
        """
        spec = resolved(name, spec)
        build: Any = getattr(self, f"_{spec.adapter}")
        return build(name, getattr(spec, spec.adapter))

    def _magicvideo(self, name: str, spec: MagicVideoSpec) -> System:
        key = spec.model_dump_json(include={"preset", "parts", "dtype", "low_memory"})
        if key not in self.pipelines:
            self.pipelines[key] = Pipeline(
                spec.preset,
                device=self.device,
                parts=spec.parts,
                dtype=spec.dtype,
                low_memory=spec.low_memory,
                cache_dir=self.cache_dir,
            )
        return PipelineArm(self.pipelines[key], spec.arms, changes=spec.changes, until=spec.until, name=name)

    def _diffusers(self, name: str, spec: DiffusersSpec) -> System:
        return DiffusersSystem(name, spec, device=self.device, base=self.base)

    def _http_job(self, name: str, spec: HttpJobSpec) -> System:
        return http_system(name, spec, tickets=self.tickets)

    def _sdk(self, name: str, spec: SdkSpec) -> System:
        return sdk_system(name, spec, tickets=self.tickets)

    def _command(self, name: str, spec: CommandSpec) -> System:
        return CommandSystem(name, spec, device=self.device, base=self.base)

    def _python(self, name: str, spec: PythonSpec) -> System:
        return PythonSystem(name, spec, device=self.device, base=self.base)

    def _imported(self, name: str, spec: ImportedSpec) -> System:
        return ImportedSystem(name, spec, base=self.base, prompts=self.prompts)

    def _sprites_truth(self, name: str, spec: SpritesTruthSpec) -> System:
        from fractions import Fraction

        from evaluation.systems.sprites_truth import SpritesTruth

        return SpritesTruth(size=spec.size, num_frames=spec.num_frames, fps=Fraction(spec.fps), name=name)
