"""How far evaluators agree with one another, and each with himself.

Coefficients work on ratings of units (the same pair of videos) in ordered categories 0..q-1. Intervals come
from redrawing clusters: prompts (with all their units), evaluators, or both at once. A pair of votes of one
evaluator with himself, which arises when he is drawn twice, is never counted as agreement.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from arena.resampling import BLOCK_BYTES, Floats, cluster_weights

Metric = Literal["nominal", "ordinal", "interval"]
Weighting = Literal["identity", "ordinal", "linear", "quadratic"]
Integers = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Votes as (unit, evaluator, category) triples, all numbered from 0.

    Attributes:
        units: ``(N,)`` what was judged.
        evaluators: ``(N,)`` who judged.
        categories: ``(N,)`` ordered verdict, below ``category_count``.
        clusters: ``(U,)`` the cluster (prompt) of each unit; by default each unit is its own.
    """

    units: Integers
    evaluators: Integers
    categories: Integers
    category_count: int
    clusters: Integers | None = None

    def __post_init__(self) -> None:
        if not len(self.units) == len(self.evaluators) == len(self.categories):
            raise ValueError("units, evaluators and categories must have the same length")
        if len(self.units) and not 0 <= self.categories.min() <= self.categories.max() < self.category_count:
            raise ValueError(f"categories must lie from 0 to {self.category_count - 1}")

    @property
    def unit_count(self) -> int:
        """Return the number of units."""
        return int(self.units.max()) + 1 if len(self.units) else 0


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """An agreement coefficient with its bootstrap interval; what cannot be computed is None.

    Attributes:
        name: Name of the coefficient.
        value: Its estimate.
        standard_error: Of redrawn studies.
        interval: Percentile interval at ``level``.
        redrawn: What was redrawn: "evaluator", "prompt" or "two-way".
        pairs: Pairs of votes it rests on.
    """

    name: str
    value: float | None
    standard_error: float | None
    interval: tuple[float, float] | None
    level: float
    redrawn: str
    pairs: int


class _Tables:
    """Pair and single counts of units, for the study itself or for redrawn ones (the leading axis)."""

    def __init__(self, counts: Floats, squares: Floats, weight: Floats | None) -> None:
        """Take counts ``(B, U, q)`` of weighted votes, of their squared weights, and ``(B, U)`` draws of units."""
        total = counts.sum(axis=-1)
        room = total**2 - squares.sum(axis=-1)
        paired = room > 1e-9
        draws = np.ones_like(total) if weight is None else weight
        scale = np.divide(draws, room, out=np.zeros_like(room), where=paired)
        self.pairs = _pair_sums(counts, squares, draws * paired)
        self.coincidences = _pair_sums(counts, squares, total * scale)
        self.mean_pairs = _pair_sums(counts, squares, scale)
        self.units = (draws * paired).sum(axis=1)
        voted = np.divide(draws, total, out=np.zeros_like(total), where=total > 0)
        share = (voted[:, None, :] @ counts)[:, 0]
        self.prevalence = share / np.maximum(share.sum(axis=1, keepdims=True), 1e-12)


def _pair_sums(counts: Floats, squares: Floats, weight: Floats) -> Floats:
    """Sum pairs of votes of different evaluators over units: ``(B, q, q)``."""
    pairs = (counts * weight[..., None]).transpose(0, 2, 1) @ counts
    own = (weight[:, None, :] @ squares)[:, 0]
    diagonal = np.arange(counts.shape[-1])
    pairs[:, diagonal, diagonal] -= own
    return pairs


def krippendorff_alpha(
    ratings: Ratings, metric: Metric = "ordinal", *, resamples: int = 0, seed: int = 0, level: float = 0.95
) -> Coefficient:
    """Compute alpha = 1 - observed / expected disagreement (Krippendorff 2011, "Computing ...").

    Units with one vote say nothing about agreement and are left out.
    """
    return _coefficient(
        f"Krippendorff alpha ({metric})", ratings, _alpha(metric, ratings), resamples, seed, level
    )


def gwet_ac2(
    ratings: Ratings,
    weighting: Weighting = "ordinal",
    *,
    resamples: int = 0,
    seed: int = 0,
    level: float = 0.95,
) -> Coefficient:
    """Compute AC2 = (p_a - p_e) / (1 - p_e) (Gwet 2014, chapter 4); with identity weights it is AC1.

    Its chance agreement stays small when one category prevails, where alpha drops although people agree.
    """
    name = "Gwet AC1" if weighting == "identity" else f"Gwet AC2 ({weighting})"
    return _coefficient(name, ratings, _ac2(weighting, ratings), resamples, seed, level)


def pairwise_agreement(
    ratings: Ratings, *, resamples: int = 0, seed: int = 0, level: float = 0.95
) -> Coefficient:
    """Compute the share of equal verdicts among all pairs of votes on the same unit."""
    return _coefficient("pairwise agreement", ratings, _pairwise, resamples, seed, level)


def agreement(
    ratings: Ratings, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Coefficient]:
    """Compute pairwise agreement, alpha (nominal, ordinal) and AC2 (ordinal), redrawing the study once."""
    functions: dict[str, tuple[str, Callable[[_Tables], Floats]]] = {
        "pairwise": ("pairwise agreement", _pairwise),
        "alpha_nominal": ("Krippendorff alpha (nominal)", _alpha("nominal", ratings)),
        "alpha_ordinal": ("Krippendorff alpha (ordinal)", _alpha("ordinal", ratings)),
        "ac2": ("Gwet AC2 (ordinal)", _ac2("ordinal", ratings)),
    }
    found = _coefficients(ratings, list(functions.values()), resamples, seed, level)
    return dict(zip(functions, found, strict=True))


def repeat_consistency(
    evaluators: Integers,
    first: Integers,
    second: Integers,
    *,
    name: str = "repeat consistency",
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Coefficient:
    """Compute the share of pairs judged twice by one evaluator with the same verdict.

    Args:
        evaluators: ``(R,)`` who judged twice, numbered from 0; evaluators are redrawn for the interval.
        first: ``(R,)`` verdict at first.
        second: ``(R,)`` verdict on the repeat.
        name: "side-swap consistency" when only repeats with swapped sides are given.
        resamples: Studies to draw.
        seed: Seed of the draws.
        level: Confidence of the interval.
    """
    if not len(evaluators) == len(first) == len(second):
        raise ValueError("evaluators, first and second must have the same length")
    if not len(evaluators):
        return Coefficient(
            name=name,
            value=None,
            standard_error=None,
            interval=None,
            level=level,
            redrawn="evaluator",
            pairs=0,
        )
    same = np.bincount(evaluators, weights=(first == second).astype(np.float64))
    total = np.bincount(evaluators).astype(np.float64)
    judged = total > 0
    same, total = same[judged], total[judged]
    drawn = np.empty(0)
    if len(total) > 1:
        weights = cluster_weights(np.random.default_rng(seed), resamples, len(total))
        drawn = (weights @ same) / (weights @ total)
    return _summary(name, float(same.sum() / total.sum()), drawn, level, "evaluator", len(evaluators))


def category_weights(weighting: Weighting, categories: int) -> Floats:
    """Return Gwet's agreement weights of categories 1..q: 1 on the diagonal, 0 between the extremes."""
    gap = np.abs(np.subtract.outer(np.arange(categories), np.arange(categories))).astype(np.float64)
    widest = max(categories - 1, 1)
    if weighting == "identity":
        return (gap == 0).astype(np.float64)
    if weighting == "linear":
        return 1 - gap / widest
    if weighting == "quadratic":
        return 1 - (gap / widest) ** 2
    return 1 - gap * (gap + 1) / (widest * (widest + 1))


def _pairwise(tables: _Tables) -> Floats:
    return _divide(np.trace(tables.pairs, axis1=1, axis2=2), tables.pairs.sum(axis=(1, 2)))


def _alpha(metric: Metric, ratings: Ratings) -> Callable[[_Tables], Floats]:
    categories = np.arange(ratings.category_count, dtype=np.float64)

    def alpha(tables: _Tables) -> Floats:
        observed = tables.coincidences
        margin = observed.sum(axis=2)
        total = margin.sum(axis=1)
        if metric == "ordinal":
            middle = np.cumsum(margin, axis=1) - margin / 2
            distance = (middle[:, :, None] - middle[:, None, :]) ** 2
        else:
            gap = np.subtract.outer(categories, categories)
            distance = (gap**2 if metric == "interval" else (gap != 0).astype(np.float64))[None]
        seen = (observed * distance).sum(axis=(1, 2)) * (total - 1)
        expected = (margin[:, :, None] * margin[:, None, :] * distance).sum(axis=(1, 2))
        return 1 - _divide(seen, expected)

    return alpha


def _ac2(weighting: Weighting, ratings: Ratings) -> Callable[[_Tables], Floats]:
    q = ratings.category_count
    weights = category_weights(weighting, q)

    def ac2(tables: _Tables) -> Floats:
        agreed = _divide((tables.mean_pairs * weights).sum(axis=(1, 2)), tables.units)
        spread = (tables.prevalence * (1 - tables.prevalence)).sum(axis=1)
        chance = weights.sum() * spread / (q * (q - 1))
        return _divide(agreed - chance, 1 - chance)

    return ac2


def _divide(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=np.abs(below) > 1e-12)


def _coefficient(
    name: str,
    ratings: Ratings,
    function: Callable[[_Tables], Floats],
    resamples: int,
    seed: int,
    level: float,
) -> Coefficient:
    return _coefficients(ratings, [(name, function)], resamples, seed, level)[0]


def _coefficients(
    ratings: Ratings,
    functions: list[tuple[str, Callable[[_Tables], Floats]]],
    resamples: int,
    seed: int,
    level: float,
) -> list[Coefficient]:
    if not len(ratings.units):
        empty = np.full(len(functions), np.nan)
        return [
            _summary(name, value, np.empty(0), level, "none", 0)
            for (name, _), value in zip(functions, empty, strict=True)
        ]
    study = _study(ratings)
    values = [float(function(study)[0]) for _, function in functions]
    drawn: list[Floats] = [np.empty(0) for _ in functions]
    if resamples > 1:
        parts = [
            [function(tables) for _, function in functions] for tables in _redrawn(ratings, resamples, seed)
        ]
        drawn = [np.concatenate(column) for column in zip(*parts, strict=True)]
    pairs = round(float(study.pairs.sum()) / 2)
    return [
        _summary(name, value, sample, level, "two-way", pairs)
        for (name, _), value, sample in zip(functions, values, drawn, strict=True)
    ]


def _summary(name: str, value: float, drawn: Floats, level: float, redrawn: str, pairs: int) -> Coefficient:
    kept = drawn[np.isfinite(drawn)]
    enough = len(kept) > 1
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2]) if enough else (np.nan, np.nan)
    return Coefficient(
        name=name,
        value=value if np.isfinite(value) else None,
        standard_error=float(kept.std(ddof=1)) if enough else None,
        interval=(float(low), float(high)) if enough else None,
        level=level,
        redrawn=redrawn,
        pairs=pairs,
    )


def _columns(ratings: Ratings) -> Integers:
    return ratings.units.astype(np.int64) * ratings.category_count + ratings.categories


def _study(ratings: Ratings) -> _Tables:
    """Tabulate the study itself. Repeats must have been left out."""
    shape = (1, ratings.unit_count, ratings.category_count)
    counts = np.bincount(_columns(ratings), minlength=shape[1] * shape[2]).reshape(shape).astype(np.float64)
    return _Tables(counts, counts, None)


def _redrawn(ratings: Ratings, resamples: int, seed: int) -> list[_Tables]:
    """Tabulate studies with evaluators and clusters of units redrawn, a block at a time."""
    generator = np.random.default_rng(seed)
    units, q = ratings.unit_count, ratings.category_count
    clusters = np.arange(units) if ratings.clusters is None else np.asarray(ratings.clusters)
    people = int(ratings.evaluators.max()) + 1
    entries = (np.ones(len(ratings.units)), (_columns(ratings), ratings.evaluators))
    table = sparse.csr_array(entries, shape=(units * q, people))
    by_person = cluster_weights(generator, resamples, people)
    by_cluster = cluster_weights(generator, resamples, int(clusters.max()) + 1)
    block = max(1, BLOCK_BYTES // (32 * units * q))
    found = []
    for start in range(0, resamples, block):
        drawn = by_person[start : start + block]
        counts = _tabulate(table, drawn, units)
        squares = _tabulate(table, drawn**2, units)
        found.append(_Tables(counts, squares, by_cluster[start : start + block][:, clusters]))
    return found


def _tabulate(table: sparse.csr_array, weights: Floats, units: int) -> Floats:
    counts: Floats = np.ascontiguousarray((table @ weights.T).T)
    return counts.reshape(len(weights), units, -1)
