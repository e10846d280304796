"""The report as data: what ``--json`` writes and what every other form is rendered from."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from evaluation.errors import EvaluationError

FORMAT = 2  # raised when a key changes its meaning or goes


@dataclass(frozen=True)
class ProtocolField:
    """One thing a reader must know of a study; ``value`` is None where nothing says it."""

    name: str
    value: str | None


@dataclass(frozen=True)
class StudySection:
    """One preference study.

    Attributes:
        answer: the study's result in one sentence.
        votes: number of votes of people behind it.
        data_origin: where the votes come from (see ``arena.report_data``).
        design: planned and observed numbers.
        comparisons: one mapping per candidate, competitor and criterion, with at least ``good same bad n
            ratio se_log_ratio interval tie_share good_over_bad net_preference``; what cannot be computed is
            None, and ``outcome`` and ``notes`` say why.
        unvoted: planned competitors nobody has voted on yet.
        warnings: plain sentences.
        ranking: see ``arena.report_statistics.ranking``; None where there is nothing to rank.
        agreement: see ``arena.report_statistics.agreement_of``.
        protocol: how the study was done, the fields that nothing states included.
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
    ranking: dict[str, Any] | None = None
    agreement: dict[str, Any] = field(default_factory=dict)
    protocol: tuple[ProtocolField, ...] = ()


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
class PseudoVotes:
    """A metric's verdicts on pairs of videos, counted like votes; automatic, never votes.

    Attributes:
        good, same, bad: pairs on which the candidate is better, within the band, worse.
        ratio: (G+S)/(B+S), None if B+S is 0.
        interval: of ``ratio``, prompts resampled; an end is None where it is infinite.
        tie_band: differences up to this are Same.
        band_from: what the band was fitted on.
    """

    good: int
    same: int
    bad: int
    ratio: float | None
    interval: tuple[float | None, float | None] | None
    tie_band: float
    band_from: str


@dataclass(frozen=True)
class AutomaticComparison:
    """A metric's difference between two systems over the prompts both have; automatic, never a vote.

    Attributes:
        difference: mean over prompts of candidate minus competitor, in the metric's unit.
        interval: 95 % Student interval over prompts, None below three prompts.
        better: prompts on which the candidate's value is the better one.
        worse: prompts on which it is the worse one.
        n: prompts compared.
        pseudo: the same differences as verdicts; None for metrics without a direction.
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
    pseudo: PseudoVotes | None = None


@dataclass(frozen=True)
class BesideVotes:
    """A metric beside the votes of one study, on one pair of systems that both have.

    Attributes:
        people: the study's own counts, ratio and interval on this pair.
        pseudo: the metric's.
    """

    study: str
    candidate: str
    competitor: str
    metric: str
    title: str
    people: dict[str, Any]
    pseudo: PseudoVotes


@dataclass(frozen=True)
class MetricAgreement:
    """How far a metric agrees with the votes of one study, over all its pairs of systems.

    Attributes:
        measures: see ``metrics.agreement.Agreement``; empty with a reason where there is none.
        human_ceiling: how often one person agrees with the majority of the others; None without two votes on a pair.
        log_ratio_correlation: Spearman's of the metric's and people's log ratios; None below three pairs of systems.
        soft_pairwise_accuracy: see ``metrics.agreement.soft_pairwise_accuracy``; None if prompts differ between pairs.
    """

    study: str
    metric: str
    title: str
    measures: dict[str, Any]
    human_ceiling: float | None
    log_ratio_correlation: float | None
    soft_pairwise_accuracy: float | None


@dataclass(frozen=True)
class ComparedClip:
    """A clip that shows two systems side by side; ``clip`` is a data URI."""

    caption: str
    clip: str


@dataclass(frozen=True)
class AblationSection:
    """What ``magicvideo ablate`` left in a folder.

    Attributes:
        answer: the largest effect in one sentence.
        result: the content of ``ablation.json``, with the votes of its study as they are now.
        clips: full beside each arm.
    """

    name: str
    answer: str
    result: dict[str, Any]
    clips: tuple[ComparedClip, ...]


@dataclass(frozen=True)
class SystemCost:
    """What a system's videos took, from the records of a run folder.

    Attributes:
        outcomes: number of videos made, refused, missing and failed.
        median_seconds: of a made video; outputs that were reused count only with the time to read them.
        total_seconds: of all made videos.
        stages: mean seconds of a stage that was not reused.
        peak_memory: bytes at the worst moment of a stage; None if unknown.
        cost: by currency.
    """

    system: str
    outcomes: dict[str, int]
    median_seconds: float | None
    total_seconds: float
    stages: dict[str, float]
    peak_memory: int | None
    cost: dict[str, float]


@dataclass(frozen=True)
class Strip:
    """One video: ``clip`` plays, ``images`` show the frames ``frames``; all are data URIs."""

    system: str
    geometry: str
    frames: tuple[int, ...]
    images: tuple[str, ...]
    clip: str


@dataclass(frozen=True)
class Example:
    """What several systems made of one prompt."""

    prompt: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Report:
    """Everything a reader is told.

    Attributes:
        headline: the answer in one sentence.
        answers: what ablations and metrics say, in sentences; automatic, without votes.
        unanswered: why the metrics cannot be set beside votes, where they cannot.
        provenance: program, databases, runs and commands that make the numbers again.
    """

    title: str
    created_at: str
    headline: str
    answers: tuple[str, ...]
    remarks: tuple[str, ...]
    studies: tuple[StudySection, ...]
    ablations: tuple[AblationSection, ...]
    metrics: tuple[MetricValue, ...]
    automatic: tuple[AutomaticComparison, ...]
    beside_votes: tuple[BesideVotes, ...]
    agreement: tuple[MetricAgreement, ...]
    unanswered: str | None
    costs: tuple[SystemCost, ...]
    examples: tuple[Example, ...]
    provenance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; clips and frames stay in the page and are listed without their pixels."""
        document = {"format": FORMAT, **asdict(self)}
        for example in document["examples"]:
            for strip in example["strips"]:
                del strip["images"], strip["clip"]
        for ablation in document["ablations"]:
            ablation["clips"] = [clip["caption"] for clip in ablation["clips"]]
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
