"""Look at a study as often as you like: tests and intervals that stay valid whenever one stops.

Votes of one evaluator go together, so evaluators are the units. An evaluator with shares g, s, b of good,
same and bad bets on u - rho v with u = g + s, v = b + s, whose mean is zero where rho = E u / E v, the ratio
(G+S)/(B+S) of a study in which every evaluator counts alike. Wealth against "the ratio is at most rho",

    K(rho) = sum_j w_j prod_t (1 + c_j (u_t / rho - v_t)),

is a nonnegative supermartingale that starts at 1 (Waudby-Smith and Ramdas, JRSS-B 2024), whatever the law of
an evaluator's votes; by Ville's inequality it ever reaches 2/alpha with probability alpha/2 at most. The other
side has 1 - c_j (u_t - rho v_t). Evaluators must arrive in an order that does not depend on their votes.

Evaluators share the prompts, so this speaks of the prompts at hand. For prompts like them, the interval is
widened by the prompts' own error, one normal variable whatever the number of looks; a union bound splits alpha.

A study that may stop at any look spends half of alpha on the looks and keeps the other half for the ordinary
analysis of the whole study, should it come to that: looks alone would find small differences too rarely.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from arena.resampling import Floats

BETS = np.array([0.1, 0.25, 0.5, 0.75, 0.95])
BET_WEIGHTS = np.array([0.05, 0.1, 0.15, 0.2, 0.5])
GRID = np.exp(0.01 * np.arange(-300, 301))
"""Ratios at which bounds are sought, one percent apart; the one in the middle is exactly 1."""
FIRST_LOOK = 5
"""Evaluators before the first look: the prompts' error of fewer is a poor estimate."""
LOOKS_SHARE = 0.5
"""Share of alpha spent on looks; the rest is for the analysis of the whole study."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a comparison has come to.

    Attributes:
        verdict: "better" or "worse" for the candidate, "equivalent", or "open".
        evaluators: How many were looked at: until the decision, or all of them while it is open.
        ratio: Their ratio, every evaluator counting alike; None while one side has no votes.
        interval: Interval of the ratio at that look, valid at every look; its ends may be 0 and inf.
        final: Whether the verdict is that of the whole study, not of a look.
    """

    verdict: str
    evaluators: int
    ratio: float | None
    interval: tuple[float, float]
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """What may be said after each evaluator.

    Attributes:
        ratio: ``(T,)`` running ratio, every evaluator counting alike; nan while one side has no votes.
        lower, upper: ``(T,)`` confidence sequence of the ratio, its bounds themselves excluded; 0 and inf where
            nothing can be said yet.
        p: ``(T,)`` anytime-valid p of "the ratio is 1"; None for prompts like these.
        alpha: One minus the confidence of the whole sequence.
        prompts: "these" prompts, or prompts "like these".
        decided_at: The first evaluator after whom 1 is excluded, counted from 1; None if it never is.
    """

    ratio: Floats
    lower: Floats
    upper: Floats
    p: Floats | None
    alpha: float
    prompts: str
    decided_at: int | None


def evaluator_shares(outcomes: npt.NDArray[np.integer], evaluators: npt.NDArray[np.integer]) -> Floats:
    """Return the shares of good, same and bad of each evaluator.

    Args:
        outcomes: ``(N,)`` +1 good, 0 same, -1 bad.
        evaluators: ``(N,)`` numbered from 0 in the order in which they finished.

    Returns:
        ``(E, 3)`` shares; each row sums to 1.

    Raises:
        ValueError: An evaluator has no votes, or an outcome is unknown.
    """
    if not np.isin(outcomes, (-1, 0, 1)).all():
        raise ValueError("outcomes must be +1 (good), 0 (same) or -1 (bad)")
    counts = np.bincount(3 * evaluators.astype(np.int64) + 1 - outcomes)
    counts = np.pad(counts, (0, -len(counts) % 3)).reshape(-1, 3).astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    if (totals == 0).any():
        raise ValueError("evaluators must be numbered from 0 without gaps")
    return counts / totals


def evaluator_sequence(
    shares: Floats, *, alpha: float = 0.05, prompt_error: Floats | None = None
) -> Sequence:
    """Follow the ratio evaluator by evaluator, valid at every look.

    Args:
        shares: ``(T, 3)`` good, same and bad of each evaluator, in the order in which they finished.
        alpha: One minus the confidence of the whole sequence.
        prompt_error: ``(T,)`` standard error of the log ratio clustered by prompt, at each look. Given, the
            sequence is about prompts like these, and only the part of the evaluators is exact: the prompts'
            part is asymptotic, and every prompt must be shown about equally often from early on.

    Raises:
        ValueError: Shares are not shares, or ``alpha`` is out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, received {alpha}")
    if shares.ndim != 2 or shares.shape[1] != 3 or not np.allclose(shares.sum(axis=1), 1):
        raise ValueError(f"shares must be (T, 3) with rows that sum to 1, received {shares.shape}")
    u, v = shares[:, 0] + shares[:, 1], shares[:, 2] + shares[:, 1]
    spent = alpha if prompt_error is None else alpha / 2
    margin = np.zeros(len(u))
    if prompt_error is not None:
        margin = float(stats.norm.ppf(1 - alpha / 4)) * np.asarray(prompt_error)
    lower, upper = _bounds(u, v, spent)
    lower, upper = lower * np.exp(-margin), upper * np.exp(margin)
    above, below = np.cumsum(u), np.cumsum(v)
    ratio = np.divide(above, below, out=np.full(len(u), np.nan), where=(above > 0) & (below > 0))
    excluded = np.flatnonzero((lower >= 1) | (upper <= 1))
    return Sequence(
        ratio=ratio,
        lower=lower,
        upper=upper,
        p=_p_values(u, v) if prompt_error is None else None,
        alpha=alpha,
        prompts="these" if prompt_error is None else "like these",
        decided_at=int(excluded[0]) + 1 if len(excluded) else None,
    )


def verdict_of(interval: tuple[float, float], equivalence: float | None) -> str:
    """Say what an interval of the ratio decides: "better", "worse", "equivalent" or "open"."""
    lower, upper = interval
    if lower >= 1 or upper <= 1:
        return "better" if lower >= 1 else "worse"
    inside = equivalence is not None and 1 / equivalence <= lower and upper <= equivalence
    return "equivalent" if inside else "open"


def decide(
    outcomes: npt.NDArray[np.integer],
    evaluators: npt.NDArray[np.integer],
    prompts: npt.NDArray[np.integer] | None = None,
    *,
    alpha: float = 0.05,
    equivalence: float | None = None,
) -> Decision:
    """Look after every evaluator, and decide at the first look that allows it.

    Args:
        outcomes: ``(N,)`` +1 good, 0 same, -1 bad.
        evaluators: ``(N,)`` numbered from 0 in the order in which they finished.
        prompts: ``(N,)`` numbered from 0; None to speak of these prompts alone.
        alpha: Of the whole study; `LOOKS_SHARE` of it is spent here.
        equivalence: Ratio above 1 within which two systems count as equally good, if any.
    """
    found = evaluator_sequence(
        evaluator_shares(outcomes, evaluators),
        alpha=LOOKS_SHARE * alpha,
        prompt_error=None if prompts is None else prompt_errors(outcomes, evaluators, prompts),
    )
    settled = (found.lower >= 1) | (found.upper <= 1)
    if equivalence is not None:
        settled |= (found.lower >= 1 / equivalence) & (found.upper <= equivalence)
    stops = np.flatnonzero(settled[FIRST_LOOK - 1 :])
    look = len(found.ratio) - 1 if not len(stops) else int(stops[0]) + FIRST_LOOK - 1
    ratio, interval = float(found.ratio[look]), (float(found.lower[look]), float(found.upper[look]))
    return Decision(
        verdict=verdict_of(interval, equivalence) if len(stops) else "open",
        evaluators=look + 1,
        ratio=ratio if math.isfinite(ratio) else None,
        interval=interval,
    )


def prompt_errors(
    outcomes: npt.NDArray[np.integer],
    evaluators: npt.NDArray[np.integer],
    prompts: npt.NDArray[np.integer],
) -> Floats:
    """Return the error of the log ratio clustered by prompt, after each evaluator.

    Args:
        outcomes: ``(N,)`` +1 good, 0 same, -1 bad.
        evaluators: ``(N,)`` numbered from 0 in the order in which they finished.
        prompts: ``(N,)`` numbered from 0.

    Returns:
        ``(T,)`` errors; inf where the ratio, or its error, is not yet defined.
    """
    people, suite = int(evaluators.max()) + 1, int(prompts.max()) + 1
    key = (evaluators.astype(np.int64) * suite + prompts) * 3 + 1 - outcomes
    counts = np.bincount(key, minlength=people * suite * 3).reshape(people, suite, 3).cumsum(axis=0)
    above, below = counts[..., 0] + counts[..., 1], counts[..., 2] + counts[..., 1]
    totals = np.stack([above.sum(axis=1), below.sum(axis=1)])
    known = (totals > 0).all(axis=0)
    share_above = above / np.maximum(totals[0], 1)[:, None]
    share_below = below / np.maximum(totals[1], 1)[:, None]
    seen = (counts.sum(axis=2) > 0).sum(axis=1)
    known &= seen > 1
    variance = ((share_above - share_below) ** 2).sum(axis=1) * seen / np.maximum(seen - 1, 1)
    return np.where(known, np.sqrt(variance), np.inf)


def _wealth(gains: Floats) -> Floats:
    """Return K after each evaluator for gains ``(T, ...)``, each at least -1; inf once it is past counting."""
    with np.errstate(over="ignore", under="ignore"):
        parts = [
            weight * np.cumprod(1 + bet * gains, axis=0)
            for bet, weight in zip(BETS, BET_WEIGHTS, strict=True)
        ]
        return np.asarray(sum(parts))


def _bounds(u: Floats, v: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the ratios up to which, and from which on, the wealth has ever reached 2/alpha.

    Wealth against low ratios falls with rho and wealth against high ones grows, so the excluded ratios of
    the grid form its two ends; the last excluded point on either end is a conservative bound.
    """
    low = np.maximum.accumulate(_wealth(u[:, None] / GRID - v[:, None]), axis=0) >= 2 / alpha
    high = np.maximum.accumulate(_wealth(GRID * v[:, None] - u[:, None]), axis=0) >= 2 / alpha
    lower = np.where(low.any(axis=1), GRID[len(GRID) - 1 - np.argmax(low[:, ::-1], axis=1)], 0.0)
    upper = np.where(high.any(axis=1), GRID[np.argmax(high, axis=1)], np.inf)
    return lower, upper


def _p_values(u: Floats, v: Floats) -> Floats:
    """Return min(1, 1 / largest wealth so far), half of it bet on either side of ratio 1."""
    gains = u - v
    both = (_wealth(gains) + _wealth(-gains)) / 2
    return np.minimum(1, 1 / np.maximum.accumulate(both))
