"""What a gate asks: which metrics, how much worse is too much, and how sure one wants to be."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from evaluation.yaml_file import checked_sampling, misfit, read_yaml

if TYPE_CHECKING:
    from metrics.scorer import ScoreOptions

SET_METRICS = ("fvd", "kvd", "jedi")
REFUSED = {
    "fvd_infinity": "it is extrapolated over random subsets, so that differences do not pair; use fvd, which compares "
    "equal numbers of videos"
}
TEMPLATE = """\
# How much worse a metric may get, in its own unit (see `magicvideo metrics list`), before it is a regression.
metrics:
  clip: {tolerance: 0.5}
  temporal: {tolerance: 0.03}
  sharpness: {tolerance: 50, direction: higher}  # a metric that only describes needs a direction
confidence: 0.95             # of all intervals together
minimum_prompts: 8           # fewer decide nothing
fail_on_inconclusive: false  # true: exit status 3 fails a job that treats it as such
temporal_sampling: native    # or fps:10, where the two sides differ in frame rate
"""


class MetricGate(BaseModel):
    """One metric of a gate; ``direction`` is for metrics that describe without judging, such as sharpness."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    direction: Literal["higher", "lower"] | None = None


class GateSpec(BaseModel):
    """A gate file, see ``TEMPLATE``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    metrics: Annotated[dict[str, MetricGate], Field(min_length=1)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    minimum_prompts: Annotated[int, Field(ge=3)] = 8
    fail_on_inconclusive: bool = False
    temporal_sampling: str = "native"
    clip_model: str = "embedded"
    clip_weights: str | None = None
    extractor: str = "embedded"
    extractor_weights: str | None = None

    @field_validator("temporal_sampling")
    @classmethod
    def _sampling(cls, sampling: str) -> str:
        return checked_sampling(sampling)

    @model_validator(mode="after")
    def _can_stand_on_metrics(self) -> Self:
        for name, gate in self.metrics.items():
            if why := _refusal(name, gate):
                raise misfit(why, "metrics", name)
        return self

    def direction(self, name: str) -> Literal["higher", "lower"]:
        """Return which way a metric of this gate is better."""
        from metrics.registry import metric_info

        own = metric_info(name).direction
        return (self.metrics[name].direction or "higher") if own == "neutral" else own

    def options(self, device: str = "cpu") -> "ScoreOptions":
        """Return how to measure."""
        from metrics.scorer import ScoreOptions

        return ScoreOptions(
            clip_model=self.clip_model,
            clip_pretrained=self.clip_weights,
            extractor=self.extractor,
            extractor_weights=self.extractor_weights,
            temporal_sampling=self.temporal_sampling,
            device=device,
        )


def _refusal(name: str, gate: MetricGate) -> str | None:
    """Say why a gate cannot stand on a metric, None if it can."""
    from metrics.errors import UnknownNameError
    from metrics.registry import METRICS, metric_info

    try:
        info = metric_info(name)
    except UnknownNameError:
        return f"unknown metric; allowed: {', '.join(METRICS)}"
    if info.per == "set" and name not in SET_METRICS:
        why = REFUSED.get(name, f"of sets it knows how to pair {', '.join(SET_METRICS)}")
        return f"a gate cannot stand on it: {why}"
    if info.direction == "neutral" and gate.direction is None:
        return "it says nothing of better or worse; give it direction: higher or lower"
    if info.direction != "neutral" and gate.direction not in (None, info.direction):
        return f"{info.direction} is better, which a gate cannot turn round"
    return None


def read_gate(path: Path) -> GateSpec:
    """Read and check a gate file.

    Raises:
        EvaluationError: not such a file; line, key and what is allowed are named.
    """
    return read_yaml(path, GateSpec)
