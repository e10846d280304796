"""The preference ratio (G+S)/(B+S) and its uncertainty, as pure functions of counts and arrays.

G, S and B count the votes in which the candidate was better than, the same as, and worse than its competitor.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from arena.resampling import encode, resampled_tables

Counts = tuple[int, int, int]
FEW_CLUSTERS = 20
HALF_VOTE = "naive, half a vote added to each of good, same and bad"


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What votes between a candidate and a competitor say; a number that cannot be computed is None.

    Attributes:
        good, same, bad, n: Votes, relative to the candidate.
        ratio: (G+S)/(B+S), above 1 if the candidate is preferred.
        se_log_ratio: Standard error of log(ratio), by ``interval_method``.
        interval: Confidence interval of the ratio at ``level``.
        tie_share: S/N.
        good_over_bad: G/B, ties left out.
        net_preference: (G-B)/N.
        half_tie_share: (G+S/2)/N.
        bound: N/S; the ratio lies between its inverse and it, whatever the other votes.
        sign_test_p: Two-sided exact binomial test of G among G+B against one half.
        outcome: "ok" or the name of what makes the ratio or its interval uninformative.
        notes: Sentences on how the numbers came about.
    """

    good: int
    same: int
    bad: int
    n: int
    ratio: float | None
    se_log_ratio: float | None
    interval: tuple[float, float] | None
    level: float
    interval_method: str
    tie_share: float | None
    good_over_bad: float | None
    net_preference: float | None
    half_tie_share: float | None
    bound: float | None
    sign_test_p: float | None
    outcome: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClusteredError:
    """Standard errors of log((G+S)/(B+S)) by how votes are taken to depend on one another."""

    naive: float
    evaluator: float | None
    prompt: float | None
    two_way: float | None
    evaluators: int
    prompts: int
    jackknife: float | None = None
    """By leaving out clusters of `method` one at a time; None if a ratio without one is zero or infinite."""

    @property
    def few(self) -> bool:
        """Say whether there are so few clusters that the jackknife is the safer error."""
        freedom = self.degrees_of_freedom
        return freedom is not None and freedom + 1 < FEW_CLUSTERS and self.jackknife is not None

    @property
    def method(self) -> str:
        """Name the most cautious error that the identifiers allow."""
        if self.two_way is not None:
            return "two-way"
        if self.evaluator is not None:
            return "evaluator"
        return "prompt" if self.prompt is not None else "naive"

    @property
    def chosen(self) -> float:
        """Return the error that `method` names, by the jackknife when there are few clusters."""
        if self.few and self.jackknife is not None:
            return self.jackknife
        values = {"two-way": self.two_way, "evaluator": self.evaluator, "prompt": self.prompt}
        chosen = values.get(self.method)
        return self.naive if chosen is None else chosen

    @property
    def degrees_of_freedom(self) -> int | None:
        """Return clusters minus one of the smaller side that `method` uses, None for the normal law."""
        sizes = {
            "two-way": min(self.evaluators, self.prompts),
            "evaluator": self.evaluators,
            "prompt": self.prompts,
        }
        return sizes[self.method] - 1 if self.method in sizes else None


def naive_se_log_ratio(good: float, same: float, bad: float) -> float:
    """Return sqrt((G+B)/((G+S)(B+S))), the delta-method error of log((G+S)/(B+S)) for independent votes."""
    return math.sqrt((good + bad) / ((good + same) * (bad + same)))


def sign_test(good: int, bad: int) -> float | None:
    """Return the two-sided exact p of G among G+B against one half; None when nobody preferred either."""
    if good + bad == 0:
        return None
    return float(stats.binomtest(good, good + bad, 0.5).pvalue)


def gsb_ratio(
    good: int,
    same: int,
    bad: int,
    *,
    level: float = 0.95,
    clustered: ClusteredError | None = None,
) -> Preference:
    """Compute the preference ratio of a candidate over a competitor with its interval.

    The interval is ``ratio * exp(±q * se)``: q normal and se naive, or, given ``clustered``, q of Student's
    law and se clustered, by the jackknife when there are fewer than 20 clusters. When G+S or B+S is zero, one
    half is added to each of G, S and B for the interval; when G+B is zero there is none. The outcome names
    the case.

    Args:
        good: Votes for the candidate, 0 or more.
        same: Votes for neither, 0 or more.
        bad: Votes for the competitor, 0 or more.
        level: Confidence of the interval, in (0, 1).
        clustered: Errors from `clustered_se` on the same votes.

    Raises:
        ValueError: A count is negative or the level is out of range.
    """
    _check_counts(good, same, bad, level)
    n = good + same + bad
    ratio = (good + same) / (bad + same) if bad + same > 0 else None
    outcome, notes = _outcome(good, same, bad)
    error, interval, method = _interval(good, same, bad, level, clustered)
    if method == HALF_VOTE:
        notes = (*notes, "a sum is zero: the interval adds half a vote to each of good, same and bad")
    return Preference(
        good=good,
        same=same,
        bad=bad,
        n=n,
        ratio=ratio,
        se_log_ratio=error,
        interval=interval,
        level=level,
        interval_method=method,
        tie_share=same / n if n else None,
        good_over_bad=good / bad if bad else None,
        net_preference=(good - bad) / n if n else None,
        half_tie_share=(good + same / 2) / n if n else None,
        bound=n / same if same else None,
        sign_test_p=sign_test(good, bad),
        outcome=outcome,
        notes=notes,
    )


def _check_counts(good: int, same: int, bad: int, level: float) -> None:
    for name, value in (("good", good), ("same", same), ("bad", bad)):
        if value < 0 or value != int(value):
            raise ValueError(f"{name} must be a whole number of votes, 0 or more, received {value!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, received {level!r}")


def _outcome(good: int, same: int, bad: int) -> tuple[str, tuple[str, ...]]:
    if good + same + bad == 0:
        return "no votes", ("there are no votes",)
    if good + bad == 0:
        return "no information", ("every vote is a tie: nothing is known about which is better",)
    if bad + same == 0:
        return "infinite", ("every vote is for the candidate: the ratio has no upper end",)
    if good + same == 0:
        return "zero", ("every vote is for the competitor: the ratio is zero",)
    return "ok", ()


def _interval(
    good: int, same: int, bad: int, level: float, clustered: ClusteredError | None
) -> tuple[float | None, tuple[float, float] | None, str]:
    if good + bad == 0:
        return None, None, "none"
    quantile = float(stats.norm.ppf(0.5 + level / 2))
    if 0 in (good + same, bad + same):
        g, s, b = good + 0.5, same + 0.5, bad + 0.5
        error, centre, method = (
            naive_se_log_ratio(g, s, b),
            math.log((g + s) / (b + s)),
            HALF_VOTE,
        )
    else:
        error, method = naive_se_log_ratio(good, same, bad), "naive"
        centre = math.log((good + same) / (bad + same))
        if clustered is not None:
            error = clustered.chosen
            method = f"{clustered.method} jackknife" if clustered.few else clustered.method
            if clustered.degrees_of_freedom is not None:
                quantile = float(stats.t.ppf(0.5 + level / 2, clustered.degrees_of_freedom))
    return error, (math.exp(centre - quantile * error), math.exp(centre + quantile * error)), method


def count_outcomes(outcomes: npt.ArrayLike) -> Counts:
    """Count verdicts +1 (good), 0 (same) and -1 (bad) of a one-dimensional array."""
    values = np.asarray(outcomes)
    if not np.isin(values, (-1, 0, 1)).all():
        raise ValueError("outcomes must be +1 (good), 0 (same) or -1 (bad)")
    return int((values == 1).sum()), int((values == 0).sum()), int((values == -1).sum())


def influence(outcomes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return each vote's influence on log((G+S)/(B+S)); the values sum to zero.

    With g, s, b the shares: 1/(1-b) for a good vote, -1/(1-g) for a bad one, their sum for a tie.
    """
    values = np.asarray(outcomes)
    good, same, bad = count_outcomes(values)
    if good + same == 0 or bad + same == 0:
        raise ValueError("the ratio is zero or infinite: a vote has no finite influence on its logarithm")
    not_bad, not_good = len(values) / (good + same), len(values) / (bad + same)
    return np.select([values == 1, values == -1], [not_bad, -not_good], not_bad - not_good)


def clustered_se(
    outcomes: npt.ArrayLike,
    evaluators: Sequence[Hashable] | None = None,
    prompts: Sequence[Hashable] | None = None,
) -> ClusteredError:
    """Compute the error of log((G+S)/(B+S)) when votes of one evaluator, or on one prompt, go together.

    One way: V = N^-2 * sum over clusters of (sum of influences)^2 * C/(C-1). Two ways, after Cameron, Gelbach
    and Miller (2011): V = V_evaluator + V_prompt - V_both, and never less than either one.

    Args:
        outcomes: ``(N,)`` verdicts, +1 good, 0 same, -1 bad.
        evaluators: ``(N,)`` identifiers, or None when unknown.
        prompts: ``(N,)`` identifiers, or None when unknown.

    Raises:
        ValueError: Lengths differ, a verdict is unknown, or the ratio is zero or infinite.
    """
    psi = influence(outcomes)
    naive = float(math.sqrt((psi**2).sum()) / len(psi))
    rows = _codes(evaluators, len(psi), "evaluators")
    columns = _codes(prompts, len(psi), "prompts")
    by_row, by_column = _one_way(psi, rows), _one_way(psi, columns)
    both = None
    if rows is not None and columns is not None and by_row is not None and by_column is not None:
        cells = rows * (int(columns.max()) + 1) + columns
        overlap = _one_way(psi, np.unique(cells, return_inverse=True)[1]) or 0.0
        both = max(by_row + by_column - overlap, by_row, by_column)
    return ClusteredError(
        naive=naive,
        evaluator=_root(by_row),
        prompt=_root(by_column),
        two_way=_root(both),
        evaluators=0 if rows is None else int(rows.max()) + 1,
        prompts=0 if columns is None else int(columns.max()) + 1,
        jackknife=_root(_jackknife(np.asarray(outcomes), rows, columns)),
    )


def _jackknife(
    outcomes: npt.NDArray[np.integer],
    rows: npt.NDArray[np.int64] | None,
    columns: npt.NDArray[np.int64] | None,
) -> float | None:
    """Return the variance by leaving out clusters, after MacKinnon, Nielsen and Webb (arXiv 2406.08880).

    One way: (C-1)/C * sum over clusters of (log R without it - log R)^2. Two ways: evaluators plus prompts
    minus both, and never less than either one.
    """
    parts = [codes for codes in (rows, columns) if codes is not None]
    variances = [_leave_out(outcomes, codes) for codes in parts]
    if rows is not None and columns is not None:
        cells = np.unique(rows * (int(columns.max()) + 1) + columns, return_inverse=True)[1]
        variances.append(_leave_out(outcomes, cells))
    known = [variance for variance in variances if variance is not None]
    if not known or len(known) < len(variances):
        return None
    return max(known[0] + known[1] - known[2], known[0], known[1]) if len(known) == 3 else known[0]


def _leave_out(outcomes: npt.NDArray[np.integer], codes: npt.NDArray[np.int64]) -> float | None:
    counts = np.bincount(3 * codes + 1 - outcomes, minlength=3 * (int(codes.max()) + 1)).reshape(-1, 3)
    total = counts.sum(axis=0)
    rest = np.vstack([total, total - counts])
    above, below = rest[:, 0] + rest[:, 1], rest[:, 1] + rest[:, 2]
    if len(counts) < 2 or min(above.min(), below.min()) <= 0:
        return None
    log_ratio = np.log(above / below)
    return float(((log_ratio[1:] - log_ratio[0]) ** 2).sum() * (len(counts) - 1) / len(counts))


def interval_by_method(
    good: int, same: int, bad: int, error: ClusteredError, level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Return the ratio's interval by each way in which votes may depend on one another.

    Returns:
        "naive", "evaluator", "prompt", "two_way" and "jackknife"; None where identifiers are missing.
    """
    fewer = min(error.evaluators, error.prompts)
    methods = {
        "naive": (error.naive, math.inf),
        "evaluator": (error.evaluator, error.evaluators - 1),
        "prompt": (error.prompt, error.prompts - 1),
        "two_way": (error.two_way, fewer - 1),
        "jackknife": (error.jackknife, error.degrees_of_freedom or math.inf),
    }
    centre = math.log((good + same) / (bad + same))
    found: dict[str, tuple[float, float] | None] = {}
    for method, (spread, freedom) in methods.items():
        if spread is None:
            found[method] = None
            continue
        reach = float(stats.t.ppf(0.5 + level / 2, freedom)) * spread
        found[method] = (math.exp(centre - reach), math.exp(centre + reach))
    return found


@dataclass(frozen=True, kw_only=True)
class BootstrapInterval:
    """Interval of the ratio over redrawn studies.

    Attributes:
        standard_error: Of the log ratio.
        interval: Percentile interval of the ratio.
        redrawn: "evaluators and prompts", "evaluators", "prompts" or "votes".
        resamples, failed: Studies drawn, and those among them without a finite ratio, which are left out.
    """

    standard_error: float
    interval: tuple[float, float]
    redrawn: str
    resamples: int
    failed: int


def bootstrap_ratio(
    outcomes: npt.ArrayLike,
    evaluators: Sequence[Hashable] | None = None,
    prompts: Sequence[Hashable] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> BootstrapInterval | None:
    """Redraw evaluators and prompts, with replacement, and read off the ratio's interval.

    With both known this is the pigeonhole bootstrap (Owen 2007): a vote weighs how often its evaluator was
    drawn times how often its prompt was. It is cautious when votes do not depend on one another.

    Returns:
        The interval; None when more than one in twenty redrawn studies has no finite ratio.
    """
    values = np.asarray(outcomes)
    count_outcomes(values)
    tables = resampled_tables(
        1 - values.astype(np.int64),
        3,
        evaluators=_codes(evaluators, len(values), "evaluators"),
        prompts=_codes(prompts, len(values), "prompts"),
        resamples=resamples,
        seed=seed,
    )
    above, below = tables[:, 0] + tables[:, 1], tables[:, 1] + tables[:, 2]
    kept = (above > 0) & (below > 0)
    if kept.sum() < max(2, 0.95 * resamples):
        return None
    log_ratio = np.log(above[kept] / below[kept])
    low, high = np.exp(np.quantile(log_ratio, [(1 - level) / 2, (1 + level) / 2]))
    named = [name for name, ids in (("evaluators", evaluators), ("prompts", prompts)) if ids is not None]
    return BootstrapInterval(
        standard_error=float(log_ratio.std(ddof=1)),
        interval=(float(low), float(high)),
        redrawn=" and ".join(named) or "votes",
        resamples=resamples,
        failed=int((~kept).sum()),
    )


def sign_flip_test(
    outcomes: npt.ArrayLike, evaluators: Sequence[Hashable], *, resamples: int = 9999, seed: int = 0
) -> float | None:
    """Return the two-sided p of G = B when all votes of an evaluator may go together.

    Each evaluator's G - B keeps its size and takes a random sign; p is the share of (1 + ``resamples``) sums,
    the observed one among them, that are at least as large. None when nobody preferred either.
    """
    values = np.asarray(outcomes)
    count_outcomes(values)
    codes = _codes(evaluators, len(values), "evaluators")
    if not values.any() or codes is None:
        return None
    sums = np.bincount(codes, weights=values)
    signs = np.random.default_rng(seed).integers(0, 2, (resamples, len(sums)), np.int8)
    flipped = np.abs(2 * (signs @ sums) - sums.sum())
    return float((1 + (flipped >= abs(sums.sum()) - 1e-9).sum()) / (1 + resamples))


def _root(variance: float | None) -> float | None:
    return None if variance is None else math.sqrt(variance)


def _codes(labels: Sequence[Hashable] | None, n: int, name: str) -> npt.NDArray[np.int64] | None:
    if labels is None:
        return None
    if len(labels) != n:
        raise ValueError(f"{name} must name each of the {n} votes, received {len(labels)} names")
    return encode(labels)


def _one_way(psi: npt.NDArray[np.float64], codes: npt.NDArray[np.int64] | None) -> float | None:
    """Return the variance clustered by ``codes``; None when there are fewer than two clusters."""
    if codes is None:
        return None
    sums = np.bincount(codes, weights=psi)
    clusters = len(sums)
    if clusters < 2:
        return None
    return float((sums**2).sum() / len(psi) ** 2 * clusters / (clusters - 1))
