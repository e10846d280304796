"""How a tuned model compares with its parent: the judge's votes, attribute accuracy, the decision, the report."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from arena.preference import clustered_se, count_outcomes, gsb_ratio
from evaluation.gate.compare import GateResult
from evaluation.gate.paired import paired_mean
from evaluation.judge_votes import Reading

LEVEL = 0.95
OBJECT = ("shape", "colour")


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Automatic verdicts on a model against its parent: (G+S)/(B+S) with its 95 % interval."""

    good: int
    same: int
    bad: int
    ratio: float | None
    low: float | None
    high: float | None
    method: str

    @property
    def sentence(self) -> str:
        """Say it in words."""
        counts = f"{self.good} good, {self.same} same, {self.bad} bad"
        if self.ratio is None or self.low is None or self.high is None:
            return f"{counts} (automatic), which says nothing of a ratio"
        return f"(G+S)/(B+S) {self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}] of {counts} (automatic)"

    @property
    def better(self) -> bool:
        """Whether the interval lies above 1."""
        return self.low is not None and self.low > 1

    @property
    def worse(self) -> bool:
        """Whether the interval lies below 1."""
        return self.high is not None and self.high < 1


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The share of held-out images with the right shape and colour, and of each attribute.

    Attributes:
        before: of the parent.
        after: of the tuned model.
        improvement: mean paired difference over prompts.
        low: lower end of its 95 % interval.
        high: upper end.
        prompts: how many there were.
        by_attribute: before and after, by attribute.
    """

    before: float
    after: float
    improvement: float
    low: float
    high: float
    prompts: int
    by_attribute: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A tuned model against its parent on held-out prompts."""

    name: str
    votes: Votes
    accuracy: Accuracy

    @property
    def sentence(self) -> str:
        """Say it in words."""
        found = self.accuracy
        return (
            f"{self.name} against its parent on {found.prompts} held-out prompts: {self.votes.sentence}; shape and "
            f"colour right {found.before:.1%} before, {found.after:.1%} after ({found.improvement:+.1%}, "
            f"{found.low:+.1%} to {found.high:+.1%})"
        )


def preference_of(outcomes: Sequence[int], prompts: Sequence[Hashable]) -> Votes:
    """Return the ratio of verdicts +1, 0 and -1 with an interval clustered by prompt."""
    values = np.array(outcomes, np.int64)
    good, same, bad = count_outcomes(values)
    clustered = None
    if good + bad and good + same and bad + same and len(set(prompts)) > 1:
        clustered = clustered_se(values, None, list(prompts))
    found = gsb_ratio(good, same, bad, level=LEVEL, clustered=clustered)
    low, high = found.interval or (None, None)
    return Votes(
        good=good, same=same, bad=bad, ratio=found.ratio, low=low, high=high, method=found.interval_method
    )


def accuracy_of(
    before: Mapping[tuple[str, int], Reading], after: Mapping[tuple[str, int], Reading]
) -> Accuracy:
    """Compare two models' readings of the same prompts and seeds."""
    shares: dict[str, list[tuple[float, float]]] = {}
    for place in before:
        pair = (_object_right(before[place]), _object_right(after[place]))
        shares.setdefault(place[0], []).append((float(pair[0]), float(pair[1])))
    means = np.array([np.mean(rows, axis=0) for rows in shares.values()])
    found = paired_mean((means[:, 1] - means[:, 0]).tolist(), LEVEL)
    names = dict.fromkeys(name for reading in before.values() for name in reading.attributes)
    return Accuracy(
        before=float(means[:, 0].mean()),
        after=float(means[:, 1].mean()),
        improvement=found.mean,
        low=found.low,
        high=found.high,
        prompts=len(means),
        by_attribute={name: (_share(before, name), _share(after, name)) for name in names},
    )


def decide_round(images: Comparison, videos: Votes | None, gate: GateResult | None) -> tuple[bool, str]:
    """Return whether the child is kept, and why: preferred beyond doubt, and nothing regresses."""
    if not images.votes.better:
        return False, f"the child is not preferred beyond doubt: {images.votes.sentence}"
    if videos is not None and videos.worse:
        return False, f"the child's videos are worse: {videos.sentence}"
    if gate is not None and gate.failed:
        return False, f"the gate says {gate.sentence()}"
    said = "no videos were asked for" if gate is None else f"the gate says {gate.sentence()}"
    return True, f"{images.votes.sentence}; {said}"


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return plain data for JSON."""
    return asdict(comparison) | {"sentence": comparison.sentence}


def report(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the rounds as Markdown."""
    lines = [
        "# Learning from automatic verdicts",
        "",
        "All verdicts below are the sprites judge's, `automatic`; no person voted. Prompts of the comparisons were in "
        "no tuning set; parent and tuned models had the same seeds. Intervals are of 95 %, clustered by prompt.",
        "",
    ]
    for record in records:
        lines += [
            f"## Round {record['round']}: {'kept' if record['kept'] else 'rejected'}",
            "",
            f"{record['reason']}.",
            "",
            f"Preference set: {record['preferences']}",
            "",
            "| model against parent | G | S | B | (G+S)/(B+S) | interval | shape and colour: parent | tuned | change |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *(_row(item) for item in record["comparisons"]),
            "",
        ]
        if record["video_votes"] is not None:
            lines += [f"Whole videos, child against parent: {Votes(**record['video_votes']).sentence}.", ""]
        if record["gate"] is not None:
            lines += [f"* {_metric(row)}" for row in record["gate"]["metrics"]] + [""]
        lines += [f"{record['seconds'] / 60:.0f} minutes.", ""]
    return "\n".join(lines)


def _row(item: Mapping[str, Any]) -> str:
    votes, found = Votes(**item["votes"]), item["accuracy"]
    known = votes.ratio is not None and votes.low is not None and votes.high is not None
    cells = (
        item["name"],
        str(votes.good),
        str(votes.same),
        str(votes.bad),
        f"{votes.ratio:.2f}" if known else "none",
        f"{votes.low:.2f} to {votes.high:.2f}" if known else "none",
        f"{found['before']:.1%}",
        f"{found['after']:.1%}",
        f"{found['improvement']:+.1%} ({found['low']:+.1%} to {found['high']:+.1%})",
    )
    return f"| {' | '.join(cells)} |"


def _metric(row: Mapping[str, Any]) -> str:
    if row["improvement"] is None or row["low"] is None:
        return f"{row['metric']}: {row['verdict']}" + (f", {row['reason']}" if row["reason"] else "")
    return (
        f"{row['metric']}: {row['verdict']}, {row['improvement']:+.3g} {row['unit']} (positive is better; "
        f"{row['low']:+.3g} to {row['high']:+.3g}, tolerance {row['tolerance']:g})"
    )


def _object_right(reading: Reading) -> bool:
    return all(reading.attributes[name] > 0.5 for name in OBJECT)


def _share(readings: Mapping[tuple[str, int], Reading], name: str) -> float:
    read = [item.attributes[name] for item in readings.values() if name in item.attributes]
    return float(np.mean([value > 0.5 for value in read]))
