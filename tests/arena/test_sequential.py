"""Looking often must not produce findings: simulated studies with effects of evaluators and prompts."""

import numpy as np
import pytest

from arena.preference import clustered_se
from arena.sequential import evaluator_sequence, evaluator_shares, prompt_errors


def _study(generator, lean: float = 0.0, evaluators: int = 40, prompts: int = 30, spread=(0.5, 0.8)):
    """Every evaluator judges every prompt; latent normal votes with effects of both, and own tie widths."""
    rows, columns = np.divmod(np.arange(evaluators * prompts), prompts)
    latent = lean + generator.normal(size=rows.size)
    latent += spread[0] * generator.normal(size=evaluators)[rows]
    latent += spread[1] * generator.normal(size=prompts)[columns]
    width = np.maximum(0, 0.4 + 0.3 * generator.normal(size=evaluators))[rows]
    return np.where(latent > width, 1, np.where(latent < -width, -1, 0)), rows, columns


def test_shares_are_those_of_each_evaluator() -> None:
    shares = evaluator_shares(np.array([1, 1, 0, -1, -1]), np.array([0, 0, 0, 1, 1]))
    assert shares == pytest.approx(np.array([[2 / 3, 1 / 3, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match="without gaps"):
        evaluator_shares(np.array([1, 1]), np.array([0, 2]))
    with pytest.raises(ValueError, match="outcomes must be"):
        evaluator_shares(np.array([2]), np.array([0]))


def test_repeated_looks_find_nothing_when_there_is_nothing() -> None:
    generator = np.random.default_rng(11)
    fooled = {"naive": 0, "these": 0, "like these": 0}
    studies = 100
    for _ in range(studies):
        outcomes, evaluators, prompts = _study(generator)
        found = evaluator_sequence(
            evaluator_shares(outcomes, evaluators), prompt_error=prompt_errors(outcomes, evaluators, prompts)
        )
        fooled["like these"] += found.decided_at is not None
        own, people, _ = _study(generator, spread=(0.5, 0.0))
        p = evaluator_sequence(evaluator_shares(own, people)).p
        assert p is not None
        fooled["these"] += bool(p.min() <= 0.05)
        lead, decided = np.cumsum(outcomes), np.cumsum(outcomes != 0)
        looks = np.arange(99, outcomes.size, 50)
        fooled["naive"] += bool((np.abs(lead[looks]) > 1.96 * np.sqrt(decided[looks])).any())
    assert fooled["naive"] / studies > 0.5
    assert fooled["these"] / studies <= 0.05
    assert fooled["like these"] / studies <= 0.05


def test_a_preference_is_found_early_and_the_interval_holds_it() -> None:
    generator = np.random.default_rng(12)
    found_at, covered = [], 0
    for _ in range(20):
        outcomes, evaluators, _ = _study(generator, lean=0.6, spread=(0.5, 0.0))
        found = evaluator_sequence(evaluator_shares(outcomes, evaluators))
        found_at.append(found.decided_at or 99)
        truth = 2.05  # the ratio of 400,000 votes of this law
        covered += bool((found.lower < truth).all() and (found.upper > truth).all())
    assert np.median(found_at) < 20
    assert covered >= 19


def test_bounds_close_in_and_swap_with_the_sides() -> None:
    outcomes, evaluators, _ = _study(np.random.default_rng(13), lean=0.4)
    shares = evaluator_shares(outcomes, evaluators)
    found, swapped = evaluator_sequence(shares), evaluator_sequence(shares[:, ::-1])
    assert (np.diff(found.lower) >= 0).all()
    assert (found.upper[1:] <= found.upper[:-1]).all()
    told = found.lower > 0
    assert told[-1]
    assert (told == np.isfinite(swapped.upper)).all()
    assert swapped.upper[told] == pytest.approx(1 / found.lower[told], rel=1e-9)
    assert found.lower[-1] < found.ratio[-1] < found.upper[-1]


def test_p_and_bounds_decide_alike() -> None:
    outcomes, evaluators, _ = _study(np.random.default_rng(14), lean=0.7)
    found = evaluator_sequence(evaluator_shares(outcomes, evaluators))
    assert found.p is not None
    assert found.decided_at is not None
    assert found.p[found.decided_at - 1] <= 0.05
    assert (np.diff(found.p) <= 0).all()


def test_prompt_errors_equal_the_clustered_error_at_each_look() -> None:
    outcomes, evaluators, prompts = _study(np.random.default_rng(15), evaluators=6, prompts=9)
    errors = prompt_errors(outcomes, evaluators, prompts)
    for look in (3, 6):
        seen = evaluators < look
        expected = clustered_se(outcomes[seen], None, prompts[seen].tolist()).prompt
        assert errors[look - 1] == pytest.approx(expected)


def test_one_sided_beginnings_say_nothing() -> None:
    shares = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = evaluator_sequence(shares)
    assert np.isnan(found.ratio).all()
    assert np.isinf(found.upper).all()
    assert found.decided_at is None
    assert np.isinf(prompt_errors(np.array([1, 1]), np.array([0, 1]), np.array([0, 1]))).all()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="rows that sum to 1"):
        evaluator_sequence(np.ones((2, 3)))
    with pytest.raises(ValueError, match="alpha must lie"):
        evaluator_sequence(np.array([[1.0, 0, 0]]), alpha=1)
