"""The report as data: what ``--json`` writes and what the HTML page is rendered from."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.errors import EvaluationError

FORMAT = 1  # raised when a key changes its meaning or goes


@dataclass(frozen=True)
class StudySection:
    """One preference study.

    Attributes:
        answer: the study's result in one sentence.
        votes: number of votes behind it, of whatever origin.
        data_origin: where the votes come from (see ``arena.report_data``).
        design: planned and observed numbers.
        comparisons: one mapping per candidate, competitor and criterion, with at least ``good same bad n
            ratio se_log_ratio interval tie_share good_over_bad net_preference``; what cannot be computed is
            None, and ``outcome`` and ``notes`` say why.
        unvoted: planned competitors nobody has voted on yet.
        warnings: plain sentences.
    """

    name: str
    state: str
    answer: str
    votes: int
    data_origin: dict[str, Any]
    design: dict[str, Any]
    comparisons: tuple[dict[str, Any], ...]
    unvoted: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class MetricValue:
    """One automatic metric of one system.

    Attributes:
        value: mean over videos, or the value of the whole set; None with ``reason``.
        standard_error: of a mean over videos, None for set values and below two videos.
        n: videos the value rests on.
        absent: videos that have no value.
        direction: ``higher``, ``lower`` or ``neutral``.
        signature: what makes two values comparable.
        comparable: False where systems of this metric carry different signatures.
    """

    system: str
    metric: str
    title: str
    value: float | None
    standard_error: float | None
    n: int
    absent: int
    direction: str
    unit: str
    signature: str
    reason: str | None
    comparable: bool


@dataclass(frozen=True)
class AutomaticComparison:
    """A metric's difference between two systems over the prompts both have; automatic, never a vote.

    Attributes:
        difference: mean over prompts of candidate minus competitor, in the metric's unit.
        interval: 95 % Student interval over prompts, None below three prompts.
        better: prompts on which the candidate's value is the better one.
        worse: prompts on which it is the worse one.
        n: prompts compared.
    """

    candidate: str
    competitor: str
    metric: str
    title: str
    direction: str
    difference: float | None
    interval: tuple[float, float] | None
    better: int
    worse: int
    n: int
    verdict: str
    reason: str | None


@dataclass(frozen=True)
class Strip:
    """Frames of one video: ``images`` are JPEG data URIs, ``frames`` the frame numbers they show."""

    system: str
    geometry: str
    frames: tuple[int, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """What several systems made of one prompt."""

    prompt: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Report:
    """Everything a reader of the page is told."""

    title: str
    created_at: str
    headline: str
    remarks: tuple[str, ...]
    studies: tuple[StudySection, ...]
    metrics: tuple[MetricValue, ...]
    automatic: tuple[AutomaticComparison, ...]
    automatic_baseline: str | None
    examples: tuple[Example, ...]
    provenance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; example frames stay in the page and are listed without their pixels."""
        document = {"format": FORMAT, **asdict(self)}
        for example in document["examples"]:
            for strip in example["strips"]:
                del strip["images"]
        return document

    def to_json(self) -> str:
        """Return the report as JSON text.

        Raises:
            EvaluationError: a number is NaN or infinite, which no report may hold.
        """
        try:
            return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        except ValueError as error:
            raise EvaluationError(f"the report holds a number that is not finite: {error}") from error
