"""The ablation file: a base pipeline, what may be taken out of it or changed, and in which combinations."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from evaluation.bench.specification import RunSpec
from evaluation.errors import EvaluationError
from evaluation.systems.pipeline import STAGES, MagicVideoSpec, changed, config_of
from evaluation.yaml_file import misfit, read_yaml
from magicvideo.errors import MagicVideoError

TEMPLATE = """\
# What `magicvideo ablate` compares. Run it again to resume, or to add what you have added here.
folder: {name}
base: {{preset: sprites}}

leave_one_out: [prior, i2v, v2v, vfi]  # the base without each; also: controlnet, appearance
sweeps:                           # the base with one setting changed
  vfi.kind: [blend, ema, edsc]
  # v2v.strength: [0.2, 0.8]
# add_one_in: [i2v, v2v, vfi]     # from the base without all of them, adding one after the other
# factorial: [i2v, v2v, vfi]      # every combination: main effects, interactions, Shapley shares
# factors:                        # parts of your own: what "without" means
#   long-v2v: {{changes: {{v2v.num_inference_steps: 5}}}}
# at_stage: true                  # also measure each left-out part at its own stage, before what follows it

prompts:
  - suite: sprites
    sample: 32
seeds: [0]
metrics: [clip, temporal]
# ties: {{clip: 0.2}}             # differences up to this count as Same; else a tenth of the spread over prompts
engine: {{workers: 2}}              # processes that make and measure videos; on CPUs one a core is fastest
"""
_BUILT_IN = ("prior", "controlnet", "appearance", "i2v", "v2v", "vfi")


class Factor(BaseModel):
    """What the base is without a part: arms of the preset, or changed settings, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    arms: tuple[str, ...] = ()
    changes: dict[str, bool | int | float | str | None] = {}

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.arms and not self.changes:
            raise ValueError("name arms or changes; without either the part is never left out")
        return self


class AblationSpec(RunSpec):
    """An ablation file; see ``TEMPLATE``."""

    base: MagicVideoSpec = MagicVideoSpec()
    factors: dict[str, Factor] = Field(default_factory=dict)
    leave_one_out: tuple[str, ...] = ()
    add_one_in: tuple[str, ...] = ()
    factorial: Annotated[tuple[str, ...], Field(max_length=6)] = ()
    sweeps: dict[str, tuple[bool | int | float | str | None, ...]] = Field(default_factory=dict)
    at_stage: bool = False
    ties: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    examples: bool = True

    @field_validator("ties")
    @classmethod
    def _known_metrics(cls, ties: dict[str, float]) -> dict[str, float]:
        from metrics.registry import METRICS

        for name in ties:
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
        return ties

    @model_validator(mode="after")
    def _designs(self) -> Self:
        if not (self.leave_one_out or self.add_one_in or self.factorial or self.sweeps):
            raise ValueError("give at least one of leave_one_out, add_one_in, factorial and sweeps")
        for design in ("leave_one_out", "add_one_in", "factorial"):
            names = getattr(self, design)
            for name in names:
                if name not in self.all_factors:
                    raise misfit(f"unknown part {name!r}; known: {', '.join(self.all_factors)}", design)
            if len(set(names)) != len(names):
                raise misfit("a part is named twice", design)
        if len(self.factorial) == 1:
            raise misfit("give at least two parts", "factorial")
        if not self.metrics:
            raise misfit("an ablation without a metric says nothing; give at least one", "metrics")
        return self

    @model_validator(mode="after")
    def _arms_exist(self) -> Self:
        for name in self.factors:
            self._check(self.without((name,)), "factors", name)
        for path, values in self.sweeps.items():
            if not values:
                raise misfit("give at least one value", "sweeps", path)
            for value in values:
                changes = {**self.base.changes, path: value}
                self._check(self.base.model_copy(update={"changes": changes}), "sweeps", path)
        return self

    @staticmethod
    def _check(spec: MagicVideoSpec, *keys: str) -> None:
        try:
            changed(config_of(spec.preset), spec.arms, spec.changes)
        except (EvaluationError, MagicVideoError) as error:
            raise misfit(str(error), *keys) from error

    @property
    def all_factors(self) -> dict[str, Factor]:
        """The preset's own parts and those of the file."""
        return {name: Factor(arms=(f"-{name}",)) for name in _BUILT_IN} | self.factors

    def without(self, names: tuple[str, ...]) -> MagicVideoSpec:
        """Return the base without some parts, taken out in the order of ``all_factors``."""
        arms, changes = list(self.base.arms), dict(self.base.changes)
        for name in (known for known in self.all_factors if known in names):
            factor = self.all_factors[name]
            arms += [arm for arm in factor.arms if arm not in arms]
            changes |= factor.changes
        return self.base.model_copy(update={"arms": tuple(arms), "changes": changes})

    def stage_of(self, spec: MagicVideoSpec) -> str:
        """Return the first stage whose settings differ between the base and ``spec``."""
        config = config_of(spec.preset)
        base, other = (changed(config, item.arms, item.changes) for item in (self.base, spec))
        return next((stage for stage in STAGES if getattr(base, stage) != getattr(other, stage)), STAGES[-1])


def read_ablation(path: Path) -> AblationSpec:
    """Read and check an ablation file.

    Raises:
        EvaluationError: not such a file; line, key and what is allowed are named.
    """
    return read_yaml(path, AblationSpec)


def plain(value: Any) -> str:
    """Write a setting's value for a name."""
    return f"{value:g}" if isinstance(value, float) else str(value)
