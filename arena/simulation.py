"""Run a planned study many times on a computer: does its interval cover, and how often does it decide?

A vote of evaluator e on prompt p follows a latent preference

    z = mu + a_e + b_p + noise,   good where z > tau, bad where z < -tau, else same,

whose three parts are normal and share one unit of variance, a_e with ``rho_evaluator`` and b_p with ``rho_prompt`` of
it. mu and tau are those that give the planned ratio and tie share over all evaluators and prompts like these, so the
true ratio is known and coverage can be counted (the threshold model of Glenn and David 1960).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from arena.planning import Design
from arena.preference import clustered_se, count_outcomes, gsb_ratio, interval_by_method
from arena.sequential import (
    FIRST_LOOK,
    LOOKS_SHARE,
    decide,
    evaluator_sequence,
    evaluator_shares,
    prompt_errors,
    verdict_of,
)

METHODS = ("naive", "evaluator", "prompt", "two_way", "default")


@dataclass(frozen=True, kw_only=True)
class SimulatedVotes:
    """The votes of one simulated study, in the order in which its evaluators came.

    Attributes:
        outcomes: ``(N,)`` +1 good, 0 same, -1 bad.
        evaluators: ``(N,)`` numbered from 0.
        prompts: ``(N,)`` numbered from 0.
    """

    outcomes: npt.NDArray[np.int64]
    evaluators: npt.NDArray[np.int64]
    prompts: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Performance:
    """How one interval does over many studies.

    Attributes:
        method: by which votes are taken to depend on one another; ``default`` is what a report shows.
        coverage: share of studies whose interval holds the true ratio.
        coverage_error: its Monte Carlo standard error.
        decided: share of studies whose interval excludes 1: power, or false positives if the true ratio is 1.
        width: median of upper over lower end.
        studies: studies in which the interval exists.
    """

    method: str
    coverage: float
    coverage_error: float
    decided: float
    width: float
    studies: int


@dataclass(frozen=True, kw_only=True)
class SequentialPerformance:
    """How a study does that is looked at after every evaluator and stops when 1 is excluded.

    Attributes:
        decided: share of studies that ever exclude 1.
        wrong_side: share that exclude 1 on the side where the truth is not.
        covered: share whose interval holds the truth at every look.
        evaluators: median of evaluators used, all of them where nothing was decided.
    """

    decided: float
    wrong_side: float
    covered: float
    evaluators: float


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What ``simulate`` found; ``origin`` marks every number as simulated."""

    design: Design
    truth: float
    studies: int
    fixed: tuple[Performance, ...]
    sequential: SequentialPerformance
    origin: str = "simulated"


@dataclass(frozen=True, kw_only=True)
class AdaptivePerformance:
    """How one comparison of a sequential study does, which is asked about no more once it is decided.

    Attributes:
        truth: its true ratio.
        votes: share of the planned votes that were cast, on average.
        same: share of studies which decide as the fixed design does with all its votes.
        decided: share which find a difference: power, or false positives if the true ratio is 1.
        decided_fixed: the same share for the fixed design.
        wrong_side: share which find one on the side where the truth is not.
        covered: share whose ordinary interval of all votes cast holds the truth.
    """

    truth: float
    votes: float
    same: float
    decided: float
    decided_fixed: float
    wrong_side: float
    covered: float


@dataclass(frozen=True, kw_only=True)
class AdaptiveSimulation:
    """What ``simulate_adaptive`` found: each comparison, and means over all of them."""

    comparisons: tuple[AdaptivePerformance, ...]
    votes: float
    same: float
    covered: float
    studies: int
    at_once: int
    origin: str = "simulated"


def thresholds(ratio: float, ties: float) -> tuple[float, float]:
    """Return (mu, tau) of a latent preference of unit variance with that ratio and tie share.

    Raises:
        ValueError: no votes have that ratio with so many ties: it is at most 1/s for tie share s.
    """
    bad = (1 - ties * ratio) / (1 + ratio)
    good = 1 - ties - bad
    if not (0 < bad < 1 and 0 < good < 1):
        raise ValueError(
            f"no votes have a ratio of {ratio:g} with a tie share of {ties:g}; it lies between {ties:g} and "
            f"{'infinity' if ties == 0 else format(1 / ties, 'g')}"
        )
    upper, lower = float(stats.norm.isf(good)), float(stats.norm.ppf(bad))  # tau - mu, -tau - mu
    return -(upper + lower) / 2, (upper - lower) / 2


def draw_votes(design: Design, rng: np.random.Generator, *, truth: float | None = None) -> SimulatedVotes:
    """Draw one study: every evaluator votes on ``design.each`` prompts, balanced over prompts; see ``simulate``."""
    mu, tau = thresholds(design.ratio if truth is None else truth, design.ties)
    people = rng.normal(0, math.sqrt(design.rho_evaluator), design.evaluators)
    suite = rng.normal(0, math.sqrt(design.rho_prompt), design.prompts)
    evaluators = np.repeat(np.arange(design.evaluators), design.each)
    # Consecutive runs of a shuffled circle of prompts: exposures differ by one at most.
    prompts = rng.permutation(design.prompts)[np.arange(design.votes) % design.prompts]
    noise = rng.normal(0, math.sqrt(1 - design.rho_evaluator - design.rho_prompt), design.votes)
    latent = mu + people[evaluators] + suite[prompts] + noise
    outcomes = (latent > tau).astype(np.int64) - (latent < -tau)
    return SimulatedVotes(outcomes=outcomes, evaluators=evaluators, prompts=prompts)


def simulate(design: Design, *, truth: float | None = None, studies: int = 500, seed: int = 0) -> Simulation:
    """Run ``studies`` studies of a design.

    Args:
        design: the plan.
        truth: the true ratio; the planned one by default, 1 for false positives.
        studies: how many; the error of a coverage of 0.95 is 0.01 at 500.
        seed: of everything that is drawn.

    Raises:
        ValueError: fewer than 2 studies, or a ratio that the ties forbid.
    """
    if studies < 2:
        raise ValueError(f"at least 2 studies are needed, received {studies}")
    true = design.ratio if truth is None else truth
    covered: dict[str, list[bool]] = {method: [] for method in METHODS}
    decided: dict[str, list[bool]] = {method: [] for method in METHODS}
    widths: dict[str, list[float]] = {method: [] for method in METHODS}
    looks = []
    for rng in np.random.default_rng(seed).spawn(studies):
        votes = draw_votes(design, rng, truth=true)
        looks.append(_follow(votes, design, true))
        for method, (low, high) in _intervals(votes, 1 - design.alpha):
            covered[method].append(low <= true <= high)
            decided[method].append(low > 1 or high < 1)
            widths[method].append(high / low)
    fixed = tuple(
        Performance(
            method=method,
            coverage=float(np.mean(covered[method])),
            coverage_error=float(np.std(covered[method]) / math.sqrt(len(covered[method]))),
            decided=float(np.mean(decided[method])),
            width=float(np.median(widths[method])),
            studies=len(covered[method]),
        )
        for method in METHODS
        if covered[method]
    )
    ever, wrong, held, used = (np.array(column, np.float64) for column in zip(*looks, strict=True))
    sequential = SequentialPerformance(
        decided=float(ever.mean()),
        wrong_side=float(wrong.mean()),
        covered=float(held.mean()),
        evaluators=float(np.median(used)),
    )
    return Simulation(design=design, truth=true, studies=studies, fixed=fixed, sequential=sequential)


def simulate_adaptive(
    design: Design, truths: Sequence[float], *, studies: int = 500, seed: int = 0, at_once: int = 1
) -> AdaptiveSimulation:
    """Run studies with ``assignment: adaptive`` beside the fixed design, on the same votes.

    Args:
        design: the plan of each comparison.
        truths: the true ratio against each competitor.
        studies: how many.
        seed: of everything that is drawn.
        at_once: people who vote at the same time; at a decision the others are evenly far on with their tasks,
            and what they have voted stays and counts.

    Raises:
        ValueError: fewer than 2 studies, nobody at once, no truths, or a ratio that the ties forbid.
    """
    if studies < 2 or at_once < 1 or not truths:
        raise ValueError(
            f"at least 2 studies, 1 person at once and 1 truth are needed, received {studies}, {at_once}, {truths}"
        )
    found = tuple(
        _adaptive(design, truth, np.random.default_rng((seed, place)).spawn(studies), at_once)
        for place, truth in enumerate(truths)
    )
    return AdaptiveSimulation(
        comparisons=found,
        votes=float(np.mean([row.votes for row in found])),
        same=float(np.mean([row.same for row in found])),
        covered=float(np.mean([row.covered for row in found])),
        studies=studies,
        at_once=at_once,
    )


def _adaptive(
    design: Design, truth: float, generators: Sequence[np.random.Generator], at_once: int
) -> AdaptivePerformance:
    rows = []
    for generator in generators:
        votes = draw_votes(design, generator, truth=truth)
        fixed = _verdict(votes, 1 - design.alpha)
        found, cast = _stop_early(votes, design, at_once)
        interval = _default_interval(cast, 1 - design.alpha)
        rows.append(
            (
                len(cast.outcomes) / design.votes,
                found == fixed,
                found != "open",
                fixed != "open",
                (found == "better" and truth <= 1) or (found == "worse" and truth >= 1),
                interval is not None and interval[0] <= truth <= interval[1],
            )
        )
    shares = np.mean(np.array(rows, np.float64), axis=0).tolist()
    names = ("votes", "same", "decided", "decided_fixed", "wrong_side", "covered")
    return AdaptivePerformance(truth=truth, **dict(zip(names, shares, strict=True)))


def _stop_early(votes: SimulatedVotes, design: Design, at_once: int) -> tuple[str, SimulatedVotes]:
    """Return what a sequential study decides, and the votes cast until then."""
    found = decide(votes.outcomes, votes.evaluators, votes.prompts, alpha=design.alpha)
    if found.verdict == "open":
        return _verdict(votes, 1 - (1 - LOOKS_SHARE) * design.alpha), votes
    ahead = votes.evaluators - found.evaluators + 1  # 1 for whoever began last before the decision
    done = np.arange(design.votes) % design.each
    cast = (ahead <= 0) | (done < np.floor(design.each * (1 - ahead / at_once)))
    return found.verdict, SimulatedVotes(
        outcomes=votes.outcomes[cast], evaluators=votes.evaluators[cast], prompts=votes.prompts[cast]
    )


def _verdict(votes: SimulatedVotes, level: float) -> str:
    interval = _default_interval(votes, level)
    return "open" if interval is None else verdict_of(interval, None)


def _default_interval(votes: SimulatedVotes, level: float) -> tuple[float, float] | None:
    """Return the interval that a report shows, None without a finite ratio."""
    good, same, bad = count_outcomes(votes.outcomes)
    if good + same == 0 or bad + same == 0 or good + bad == 0:
        return None
    error = clustered_se(votes.outcomes, votes.evaluators.tolist(), votes.prompts.tolist())
    return gsb_ratio(good, same, bad, level=level, clustered=error).interval


def _intervals(votes: SimulatedVotes, level: float) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield each method's interval; studies without a finite ratio have none."""
    good, same, bad = count_outcomes(votes.outcomes)
    if good + same == 0 or bad + same == 0 or good + bad == 0:
        return
    error = clustered_se(votes.outcomes, votes.evaluators.tolist(), votes.prompts.tolist())
    for method, interval in interval_by_method(good, same, bad, error, level).items():
        if method in METHODS and interval is not None:
            yield method, interval
    shown = gsb_ratio(good, same, bad, level=level, clustered=error).interval
    if shown is not None:
        yield "default", shown


def _follow(votes: SimulatedVotes, design: Design, truth: float) -> tuple[bool, bool, bool, int]:
    """Look after every evaluator: ever decided, on the wrong side, truth held at every look, evaluators used."""
    found = evaluator_sequence(
        evaluator_shares(votes.outcomes, votes.evaluators),
        alpha=design.alpha,
        prompt_error=prompt_errors(votes.outcomes, votes.evaluators, votes.prompts),
    )
    lower, upper = found.lower[FIRST_LOOK - 1 :], found.upper[FIRST_LOOK - 1 :]
    above, below = lower >= 1, upper <= 1
    stops = np.flatnonzero(above | below)
    held = bool(((lower <= truth) & (truth <= upper)).all())
    if len(stops) == 0:
        return False, False, held, design.evaluators
    stop = int(stops[0])
    wrong = (truth <= 1 and bool(above[stop])) or (truth >= 1 and bool(below[stop]))
    return True, wrong, held, stop + FIRST_LOOK
