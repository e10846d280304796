"""What is worth what: paired differences, multiplicity, and effects of a factorial design. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from arena.preference import gsb_ratio
from evaluation.gate.paired import paired_mean

Subset = frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A mean over prompts with its interval; positive is in favour of what is named.

    Attributes:
        mean, low, high: in the metric's unit.
        n: prompts.
        p: two-sided, of Student's t; None below two prompts.
        detectable: smallest mean that 8 of 10 such experiments would find; None below two prompts.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float | None
    detectable: float | None


@dataclass(frozen=True, kw_only=True)
class AutomaticPreference:
    """A metric's differences as verdicts, in the unit of the paper.

    Attributes:
        good, same, bad: prompts on which the full system is better, equal within the band, worse.
        ratio: (G+S)/(B+S), None if B+S is 0.
        interval: of the ratio, None if there is none.
        band: differences up to this are Same.
    """

    good: int
    same: int
    bad: int
    ratio: float | None
    interval: tuple[float, float] | None
    band: float


def effect(values: Sequence[float] | np.ndarray, confidence: float) -> Effect:
    """Return the mean of one value a prompt."""
    found = paired_mean(np.asarray(values, float).tolist(), confidence)
    if found.n < 2:
        return Effect(mean=found.mean, low=found.low, high=found.high, n=found.n, p=None, detectable=None)
    degrees = found.n - 1
    needed = stats.t.ppf(0.5 + confidence / 2, degrees) + stats.t.ppf(0.8, degrees)
    if found.error == 0:
        p = 1.0 if found.mean == 0 else 0.0
    else:
        p = float(2 * stats.t.sf(abs(found.mean) / found.error, degrees))
    return Effect(
        mean=found.mean,
        low=found.low,
        high=found.high,
        n=found.n,
        p=p,
        detectable=float(needed * found.error),
    )


def preference(
    advantages: Sequence[float] | np.ndarray, band: float, confidence: float
) -> AutomaticPreference:
    """Turn per-prompt advantages of the full system into Good, Same and Bad."""
    values = np.asarray(advantages, float)
    good, bad = int((values > band).sum()), int((values < -band).sum())
    same = len(values) - good - bad
    found = gsb_ratio(good, same, bad, level=confidence)
    return AutomaticPreference(
        good=good, same=same, bad=bad, ratio=found.ratio, interval=found.interval, band=band
    )


def shapley(values: Mapping[Subset, np.ndarray], parts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return each part's Shapley share per prompt; they add up to full minus empty (Shapley 1953).

    Args:
        values: per-prompt values ``(N,)`` by the set of parts that are present; all 2^k sets.
        parts: the k parts.
    """
    shares = {}
    k = len(parts)
    for part in parts:
        others = [name for name in parts if name != part]
        share = np.zeros_like(values[frozenset()])
        for size in range(k):
            weight = math.factorial(size) * math.factorial(k - size - 1) / math.factorial(k)
            for chosen in combinations(others, size):
                share = share + weight * (values[frozenset({*chosen, part})] - values[frozenset(chosen)])
        shares[part] = share
    return shares


def main_effect(values: Mapping[Subset, np.ndarray], parts: Sequence[str], part: str) -> np.ndarray:
    """Return per prompt what a part adds, averaged over all combinations of the others."""
    others = [frozenset(item) for item in _combinations([name for name in parts if name != part])]
    return np.mean([values[rest | {part}] - values[rest] for rest in others], axis=0)


def interaction(values: Mapping[Subset, np.ndarray], parts: Sequence[str], one: str, two: str) -> np.ndarray:
    """Return per prompt how much more two parts add together than each alone, averaged over the others."""
    others = [frozenset(item) for item in _combinations([name for name in parts if name not in (one, two)])]
    differences = [
        values[rest | {one, two}] - values[rest | {one}] - values[rest | {two}] + values[rest]
        for rest in others
    ]
    return np.mean(differences, axis=0)


def _combinations(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [chosen for size in range(len(names) + 1) for chosen in combinations(names, size)]
