"""Evaluators of known reliability: their order is found, and clicking by habit is told from watching."""

import numpy as np
import pytest
from scipy import stats

from arena.reliability import evaluator_reliability


def _study(generator, reliability, units: int = 100, lean: float = 1.5):
    """Everybody judges every unit; whoever does not look clicks by a habit on sides of his own."""
    people = len(reliability)
    evaluators, numbers = np.divmod(np.arange(people * units), units)
    taste = generator.normal(lean, 0.8, units)[numbers] + 0.6 * generator.normal(size=evaluators.size)
    seen = np.where(taste > 0.4, 1, np.where(taste < -0.4, -1, 0))
    on_left = generator.integers(0, 2, evaluators.size) == 1
    habits = generator.dirichlet((2, 1, 2), people)
    habit = 1 - (generator.random(evaluators.size)[:, None] > habits.cumsum(axis=1)[evaluators]).sum(axis=1)
    looks = generator.random(evaluators.size) < np.asarray(reliability)[evaluators]
    clicks = np.where(looks, np.where(on_left, seen, -seen), habit)
    outcomes = np.where(on_left, clicks, -clicks)
    return numbers, evaluators, 1 - outcomes, 1 - clicks


def test_known_reliabilities_are_recovered_in_order() -> None:
    known = np.linspace(0.1, 1, 30)
    found = evaluator_reliability(*_study(np.random.default_rng(1), known))
    assert stats.spearmanr(found.value, known)[0] > 0.9
    assert ((found.value >= 0) & (found.value <= 1)).all()
    assert (found.p[known > 0.5] < 0.01).all()


@pytest.mark.parametrize("lean", [1.5, 0.0])
def test_clicking_by_habit_is_flagged_and_watching_is_not(lean: float) -> None:
    known = np.array([0.0] * 8 + [0.5, 0.6, 0.7, 0.8, 0.9] * 6)
    caught, accused = [], []
    for seed in range(5):
        found = evaluator_reliability(*_study(np.random.default_rng(seed), known, lean=lean))
        caught.append(found.uninformative[known == 0].mean())
        accused.append(found.uninformative[known > 0].mean())
    assert np.mean(caught) >= 0.85
    assert np.mean(accused) <= 0.03


def test_habits_on_sides_are_seen_where_the_candidate_always_wins() -> None:
    rng = np.random.default_rng(3)
    people, units = 10, 60
    evaluators, numbers = np.divmod(np.arange(people * units), units)
    on_left = rng.integers(0, 2, evaluators.size) == 1
    lazy = evaluators == 0  # always the left button
    outcomes = np.where(lazy, np.where(on_left, 1, -1), 1)
    clicks = np.where(on_left, outcomes, -outcomes)
    found = evaluator_reliability(numbers, evaluators, 1 - outcomes, 1 - clicks)
    assert found.uninformative.tolist() == [True] + [False] * 9
    assert found.value[0] < 0.2 < 0.8 < found.value[1:].min()


def test_too_few_votes_accuse_nobody() -> None:
    rng = np.random.default_rng(4)
    found = evaluator_reliability(*_study(rng, [0.0, 0.0, 0.5, 0.9], units=3))
    assert not found.uninformative.any()
    alone = evaluator_reliability(np.array([0]), np.array([0]), np.array([1]), np.array([1]))
    assert not alone.uninformative.any()
    assert np.isfinite(alone.value).all()


def test_the_posterior_is_bayes_rule_on_a_case_by_hand() -> None:
    """With one unit and equal evaluators, the others' verdict of each is the majority of the rest."""
    units, evaluators = np.zeros(5, int), np.arange(5)
    answers = np.array([0, 0, 0, 0, 2])
    found = evaluator_reliability(units, evaluators, answers, np.array([0, 2, 0, 2, 0]))
    assert found.value[:4].min() > found.value[4]
    assert found.verdicts.argmax() == 0
    assert found.verdicts.sum() == pytest.approx(1)


def test_wrong_arguments_are_refused() -> None:
    one = np.array([0])
    with pytest.raises(ValueError, match="the same votes"):
        evaluator_reliability(one, one, one, np.array([0, 1]))
    with pytest.raises(ValueError, match="the same votes"):
        evaluator_reliability(one[:0], one[:0], one[:0], one[:0])
    with pytest.raises(ValueError, match="answers must lie from 0 to 2"):
        evaluator_reliability(one, one, np.array([3]), one)
