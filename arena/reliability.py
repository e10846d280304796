"""How far each evaluator's answers follow the videos rather than a habit of clicking.

Every unit (the same pair of videos) has a verdict t of its own, drawn with shares pi. An evaluator of
reliability r answers t with probability r; otherwise he clicks by habit h, whatever is shown:

    P(answer a, click c | t) = r [a = t] + (1 - r) h(c)

(the model of MACE, Hovy, Berg-Kirkpatrick, Vaswani and Hovy, NAACL 2013, with habits on sides of the screen:
sides are drawn anew for each task, so that nobody can favour a system by habit). Parameters follow by
expectation maximisation, every step of which is in closed form (Dawid and Skene 1979). Taste is part of "not the
unit's verdict": reliabilities compare evaluators of one study, they are no grades.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from arena.resampling import Floats

Integers = npt.NDArray[np.integer]
STEPS = 200
TOLERANCE = 1e-4
PRIOR = 1.0
"""Votes assumed beforehand for either kind of answer, and shared out over the habits."""
SHORTFALL = 2.33
"""Standard deviations by which evidence must fall short of a usual evaluator's: one usual person in a hundred."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Reliability of each evaluator.

    Attributes:
        value: ``(E,)`` share of answers that follow the videos, 0 to 1, each judged against the others' votes.
        standard_error: ``(E,)`` of the value; nan where votes tell nothing.
        p: ``(E,)`` of "the answers are clicks by habit", one-sided.
        uninformative: ``(E,)`` p is above 0.05, and somebody of the usual reliability would have shown as little
            once in a hundred times.
        verdicts: ``(K,)`` shares of the units' own verdicts.
    """

    value: Floats
    standard_error: Floats
    p: Floats
    uninformative: npt.NDArray[np.bool_]
    verdicts: Floats


def evaluator_reliability(
    units: Integers, evaluators: Integers, answers: Integers, clicks: Integers, categories: int = 3
) -> Reliability:
    """Estimate how far each evaluator's answers follow the videos.

    Args:
        units: ``(N,)`` what was judged, numbered from 0.
        evaluators: ``(N,)`` who judged, numbered from 0 without gaps.
        answers: ``(N,)`` verdict, below ``categories``.
        clicks: ``(N,)`` what was clicked, such as left, same, right; the answers if sides are not known.
        categories: How many answers there are.

    Raises:
        ValueError: Lengths differ, there are no votes, or an answer is out of range.
    """
    if not len(units) == len(evaluators) == len(answers) == len(clicks) or not len(units):
        raise ValueError("units, evaluators, answers and clicks must name the same votes, at least one")
    for name, values in (("answers", answers), ("clicks", clicks)):
        if not 0 <= values.min() <= values.max() < categories:
            raise ValueError(f"{name} must lie from 0 to {categories - 1}")
    people = int(evaluators.max()) + 1
    votes = np.bincount(evaluators, minlength=people)
    reliability = np.full(people, 0.5)
    habit = _shares(evaluators, clicks, np.ones(len(units)), people, categories)
    verdicts = np.full(categories, 1 / categories)
    for _ in range(STEPS):
        by_habit = ((1 - reliability)[:, None] * habit)[evaluators, clicks]
        by_sight = reliability[evaluators]
        posterior = _posterior(units, answers, by_habit, by_sight, verdicts)
        seen = posterior[units, answers] * by_sight / (by_sight + by_habit)
        before = reliability
        reliability = (np.bincount(evaluators, weights=seen, minlength=people) + PRIOR) / (votes + 2 * PRIOR)
        habit = _shares(evaluators, clicks, 1 - seen, people, categories)
        verdicts = posterior.mean(axis=0)
        if np.abs(reliability - before).max() < TOLERANCE:
            break
    others = _others(posterior[units], answers, by_habit, by_sight)
    return _judge(evaluators, answers, clicks, others, verdicts, categories)


def _shares(rows: Integers, columns: Integers, weights: Floats, height: int, width: int) -> Floats:
    cells = rows.astype(np.int64) * width + columns
    table = np.bincount(cells, weights=weights, minlength=height * width).reshape(height, width)
    return np.asarray((table + PRIOR / width) / (table.sum(axis=1, keepdims=True) + PRIOR))


def _posterior(
    units: Integers, answers: Integers, by_habit: Floats, by_sight: Floats, verdicts: Floats
) -> Floats:
    """Return ``(U, K)`` probabilities of each unit's verdict given all votes."""
    count, categories = int(units.max()) + 1, len(verdicts)
    # A vote multiplies every verdict by its habit term, which cancels, and its own by (sight + habit) / habit.
    gain = np.log1p(by_sight / by_habit)
    cells = units.astype(np.int64) * categories + answers
    log = np.bincount(cells, weights=gain, minlength=count * categories).reshape(count, categories)
    log = log + np.log(np.maximum(verdicts, 1e-12))
    likely = np.exp(log - log.max(axis=1, keepdims=True))
    return np.asarray(likely / likely.sum(axis=1, keepdims=True))


def _others(posterior: Floats, answers: Integers, by_habit: Floats, by_sight: Floats) -> Floats:
    """Return ``(N, K)`` probabilities of the verdict on each vote's unit given the other votes only."""
    rows = np.arange(len(answers))
    without = posterior.copy()
    without[rows, answers] *= by_habit / (by_sight + by_habit)
    return np.asarray(without / without.sum(axis=1, keepdims=True))


def _judge(
    evaluators: Integers,
    answers: Integers,
    clicks: Integers,
    others: Floats,
    verdicts: Floats,
    categories: int,
) -> Reliability:
    """Estimate each reliability against the others' verdicts, and test whether it is zero."""
    people = int(evaluators.max()) + 1
    habit = _shares(evaluators, clicks, np.ones(len(answers)), people, categories)[evaluators, clicks]
    sight = others[np.arange(len(answers)), answers]
    votes = np.bincount(evaluators, minlength=people)
    value = np.full(people, 0.5)
    for _ in range(STEPS):
        mixed = value[evaluators]
        seen = mixed * sight / (mixed * sight + (1 - mixed) * habit)
        before, value = value, np.bincount(evaluators, weights=seen, minlength=people) / votes
        if np.abs(value - before).max() < TOLERANCE:
            break
    mixed = value[evaluators]
    predicted = mixed * sight + (1 - mixed) * habit
    statistic = 2 * np.bincount(evaluators, weights=np.log(predicted / habit), minlength=people)
    slope = np.bincount(evaluators, weights=((sight - habit) / predicted) ** 2, minlength=people)
    p = np.where(statistic > 1e-9, stats.chi2.sf(np.maximum(statistic, 0), 1) / 2, 1.0)
    shortfall = np.sqrt(_expected(evaluators, others, float(np.median(value)))) - np.sqrt(
        np.maximum(statistic, 0)
    )
    return Reliability(
        value=value,
        standard_error=np.divide(1, np.sqrt(slope), out=np.full(people, np.nan), where=slope > 0),
        p=p,
        uninformative=(p > 0.05) & (shortfall > SHORTFALL),
        verdicts=verdicts,
    )


def _expected(evaluators: Integers, others: Floats, usual: float) -> Floats:
    """Return the statistic expected of somebody of the usual reliability whose habit is to click anywhere."""
    chance = 1 / others.shape[1]
    predicted = usual * others + (1 - usual) * chance
    information = (predicted * np.log(predicted / chance)).sum(axis=1)
    return np.asarray(2 * np.bincount(evaluators, weights=information))
