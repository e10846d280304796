import numpy as np
import pytest
from scipy import stats

from arena.planning import Design
from arena.preference import count_outcomes
from arena.simulation import draw_votes, simulate, simulate_adaptive, thresholds

PAPER = Design(ratio=1.5, ties=0.2, evaluators=61, prompts=100, rho_evaluator=0.05, rho_prompt=0.10)


@pytest.mark.parametrize(("ratio", "ties"), [(1.0, 0.2), (1.89, 0.15), (0.5, 0.3), (3.0, 0.0)])
def test_thresholds_give_the_planned_ratio_and_tie_share(ratio: float, ties: float) -> None:
    mu, tau = thresholds(ratio, ties)
    good, bad = stats.norm.sf(tau - mu), stats.norm.cdf(-tau - mu)
    same = 1 - good - bad
    assert same == pytest.approx(ties, abs=1e-12)
    assert (good + same) / (bad + same) == pytest.approx(ratio, rel=1e-12)


def test_a_ratio_that_the_ties_forbid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"between 0\.5 and 2"):
        thresholds(2.5, 0.5)


def test_a_study_is_balanced_and_has_the_planned_votes() -> None:
    design = Design(ratio=1.2, ties=0.2, evaluators=7, prompts=10, votes_per_evaluator=5)
    votes = draw_votes(design, np.random.default_rng(0))
    exposure = np.bincount(votes.prompts, minlength=10)
    assert exposure.max() - exposure.min() <= 1
    assert np.bincount(votes.evaluators).tolist() == [5] * 7
    pairs = set(zip(votes.evaluators.tolist(), votes.prompts.tolist(), strict=True))
    assert len(pairs) == design.votes


def test_shares_over_many_studies_are_those_of_the_design() -> None:
    rng = np.random.default_rng(1)
    counts = np.sum([count_outcomes(draw_votes(PAPER, rng).outcomes) for _ in range(60)], axis=0)
    good, same, bad = counts / counts.sum()
    assert same == pytest.approx(0.2, abs=0.01)
    assert (good + same) / (bad + same) == pytest.approx(1.5, rel=0.03)


def test_the_default_interval_covers_where_the_naive_one_does_not() -> None:
    found = {row.method: row for row in simulate(PAPER, studies=150, seed=2).fixed}
    assert found["naive"].coverage < 0.6
    assert 0.90 <= found["default"].coverage <= 0.99
    assert found["default"].width > found["naive"].width


def test_repeated_looks_at_equal_systems_rarely_decide() -> None:
    equal = Design(ratio=1.3, ties=0.2, evaluators=40, prompts=30, rho_evaluator=0.05, rho_prompt=0.10)
    found = simulate(equal, truth=1.0, studies=100, seed=3)
    assert found.sequential.decided <= 0.05
    assert found.sequential.covered >= 0.95
    assert found.origin == "simulated"


def test_the_same_seed_gives_the_same_studies() -> None:
    design = Design(ratio=1.4, ties=0.2, evaluators=6, prompts=8)
    assert simulate(design, studies=5, seed=4) == simulate(design, studies=5, seed=4)


@pytest.mark.slow
def test_adaptive_assignment_decides_alike_with_fewer_votes_and_its_interval_covers() -> None:
    ratios = (2.67, 2.68, 2.72, 1.78, 1.62, 1.2, 1.0)  # the paper's five, a small difference, and none
    found = simulate_adaptive(PAPER, ratios, studies=60, seed=0, at_once=5)
    assert found.votes <= 0.60
    assert found.same >= 0.95
    assert 0.92 <= found.covered <= 0.97
    none = found.comparisons[-1]
    assert none.decided <= 0.05 + 2 * 0.028  # two Monte Carlo errors of 60 studies
    assert found.origin == "simulated"


def test_large_differences_need_a_part_of_the_votes() -> None:
    design = Design(ratio=2, ties=0.2, evaluators=30, prompts=20)
    found = simulate_adaptive(design, [3.5, 1.0], studies=30, seed=1, at_once=3)
    large, none = found.comparisons
    assert large.votes < 0.75
    assert none.votes > 0.95
    assert large.decided >= 0.9
    assert none.decided <= 0.1
    assert found.votes == pytest.approx((large.votes + none.votes) / 2)


def test_more_people_at_once_cast_more_votes_before_a_stop() -> None:
    design = Design(ratio=2, ties=0.2, evaluators=30, prompts=20)
    alone, many = (simulate_adaptive(design, [3.5], studies=10, seed=2, at_once=n) for n in (1, 10))
    assert many.votes > alone.votes
    assert many.comparisons[0].decided == alone.comparisons[0].decided
    with pytest.raises(ValueError, match="1 person at once"):
        simulate_adaptive(design, [1.2], at_once=0)
