"""Metric values per system, and paired differences between systems, from score rows."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evaluation.report.model import AutomaticComparison, MetricValue
from evaluation.report.pseudo import by_paper

MIN_PROMPTS = 3  # below, no interval


@dataclass(frozen=True)
class ScoreRow:
    """A stored score; ``video`` and ``prompt`` are None for the value of a whole set of ``n`` videos."""

    system: str
    video: Hashable | None
    prompt: str | None
    metric: str
    signature: str
    value: float | None
    reason: str | None
    n: int = 1


Key = tuple[str, str]  # system, metric
Groups = dict[Key, list[ScoreRow]]


@dataclass(frozen=True)
class MetricNames:
    """How a metric is shown."""

    title: str
    direction: str
    unit: str


def newest(rows: Iterable[ScoreRow]) -> tuple[Groups, dict[Key, ScoreRow]]:
    """Sort rows, given oldest first, into those of videos and those of whole sets, newest measurement only.

    Returns:
        The newest row of each video, by system and metric; the newest row of each whole set.
    """
    groups: dict[Key, dict[Hashable, ScoreRow]] = {}
    whole_sets: dict[Key, ScoreRow] = {}
    for row in rows:
        if row.video is None:
            whole_sets[row.system, row.metric] = row
        else:
            groups.setdefault((row.system, row.metric), {})[row.video] = row
    return {key: list(group.values()) for key, group in groups.items()}, whole_sets


def signature_of(rows: Sequence[ScoreRow]) -> str:
    """Return how rows were measured; several ways stand one after the other."""
    return " & ".join(sorted({row.signature for row in rows}))


def metric_values(
    groups: Groups, whole_sets: Mapping[Key, ScoreRow], names: Mapping[str, MetricNames]
) -> list[MetricValue]:
    """Take the value of a system's whole set where there is one, else average over its videos."""
    order = list(names)
    keys = sorted(
        dict.fromkeys([*groups, *whole_sets]),
        key=lambda key: order.index(key[1]) if key[1] in order else len(order),
    )
    signatures: dict[str, set[str]] = {}
    for key in keys:
        measured = whole_sets[key].signature if key in whole_sets else signature_of(groups[key])
        signatures.setdefault(key[1], set()).add(measured)
    return [
        _metric_value(
            key, groups.get(key, []), whole_sets.get(key), _names(names, key[1]), len(signatures[key[1]]) == 1
        )
        for key in keys
    ]


def _names(names: Mapping[str, MetricNames], metric: str) -> MetricNames:
    return names.get(metric) or MetricNames(metric, "neutral", "")


def _metric_value(
    key: Key, rows: Sequence[ScoreRow], whole_set: ScoreRow | None, names: MetricNames, comparable: bool
) -> MetricValue:
    values = np.array([row.value for row in rows if row.value is not None], np.float64)
    mean = float(values.mean()) if len(values) else None
    value, n, signature = (
        (whole_set.value, whole_set.n, whole_set.signature)
        if whole_set
        else (mean, len(values), signature_of(rows))
    )
    # The rows' spread is the value's only where the value is their plain mean.
    plain = value is not None and mean is not None and n == len(values) and math.isclose(value, mean)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if plain and len(values) > 1 else None
    reasons = {row.reason for row in (*rows, *([whole_set] if whole_set else [])) if row.reason}
    return MetricValue(
        system=key[0],
        metric=key[1],
        title=names.title,
        value=value,
        standard_error=error,
        n=n,
        absent=len(rows) - len(values),
        direction=names.direction,
        unit=names.unit,
        signature=signature,
        reason="; ".join(sorted(reasons)) or None,
        comparable=comparable,
    )


def compare(
    groups: Groups,
    baseline: str,
    names: Mapping[str, MetricNames],
) -> list[AutomaticComparison]:
    """Compare ``baseline`` with every other system, metric by metric, over the prompts both have."""
    order = list(names)
    compared = [
        _compare(baseline, system, metric, groups[baseline, metric], rows, _names(names, metric))
        for (system, metric), rows in groups.items()
        if system != baseline and (baseline, metric) in groups
    ]
    return sorted(compared, key=lambda item: order.index(item.metric) if item.metric in order else len(order))


def _compare(
    candidate: str,
    competitor: str,
    metric: str,
    ours: Sequence[ScoreRow],
    theirs: Sequence[ScoreRow],
    names: MetricNames,
) -> AutomaticComparison:
    deltas, shared, reason = np.empty(0), list[str](), None
    if signature_of(ours) != signature_of(theirs):
        reason = "measured differently (signatures differ), so not comparable"
    else:
        ours_by_prompt, theirs_by_prompt = by_prompt(ours), by_prompt(theirs)
        shared = sorted(ours_by_prompt.keys() & theirs_by_prompt.keys())
        deltas = np.array(
            [ours_by_prompt[prompt] - theirs_by_prompt[prompt] for prompt in shared], np.float64
        )
        if not len(deltas):
            reason = "no prompt has a value for both"
    sign = -1 if names.direction == "lower" else 1
    directed = names.direction != "neutral"
    interval = _interval(deltas)
    return AutomaticComparison(
        candidate=candidate,
        competitor=competitor,
        metric=metric,
        title=names.title,
        direction=names.direction,
        difference=float(deltas.mean()) if len(deltas) else None,
        interval=interval,
        better=int((sign * deltas > 0).sum()) if directed else 0,
        worse=int((sign * deltas < 0).sum()) if directed else 0,
        n=len(deltas),
        verdict=_verdict(interval, sign, directed),
        reason=reason,
        pseudo=by_paper(sign * deltas, shared) if directed and len(deltas) else None,
    )


def by_prompt(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """Average over the seeds of each prompt; videos without a value are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.prompt is not None and row.value is not None:
            values.setdefault(row.prompt, []).append(row.value)
    return {prompt: float(np.mean(found)) for prompt, found in values.items()}


def _interval(deltas: np.ndarray) -> tuple[float, float] | None:
    if len(deltas) < MIN_PROMPTS:
        return None
    half = float(stats.t.ppf(0.975, len(deltas) - 1) * deltas.std(ddof=1) / math.sqrt(len(deltas)))
    return float(deltas.mean()) - half, float(deltas.mean()) + half


def _verdict(interval: tuple[float, float] | None, sign: int, directed: bool) -> str:
    """Name the reading: ``better``, ``worse``, ``no clear difference``, or ``not judged``."""
    if not directed or interval is None:
        return "not judged"
    low, high = sorted((sign * interval[0], sign * interval[1]))
    if low > 0:
        return "better"
    return "worse" if high < 0 else "no clear difference"
