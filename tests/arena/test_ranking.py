"""Rankings against published fits, other implementations and what must not change."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from arena.ranking import (
    PairCounts,
    count_pairs,
    pair_counts,
    rank_intervals,
    rank_systems,
    redraw_counts,
    resample_pairs,
)
from arena.resampling import cluster_weights

DATA = Path(__file__).parent.parent / "data"
STAR = [
    ("MagicVideo-V2", "MoonValley", 4099, 1242, 759),
    ("MagicVideo-V2", "Pika 1.0", 4263, 927, 1010),
    ("MagicVideo-V2", "Morph", 4129, 1230, 741),
    ("MagicVideo-V2", "Gen-2", 3448, 1279, 1373),
    ("MagicVideo-V2", "SVD-XT", 3169, 1591, 1340),
]


@pytest.fixture(scope="module")
def pudding() -> PairCounts:
    """Davidson (1970), table 3: six brands of chocolate pudding."""
    with (DATA / "davidson1970_pudding.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            (row["first"], row["second"], *(float(row[key]) for key in ("wins", "ties", "losses")))
            for row in csv.DictReader(file)
        ]
    found = pair_counts(rows)
    assert found.systems == ("1", "2", "3", "4", "5", "6")
    return found


def _votes(seed: int, n: int, systems: int = 4, evaluators: int = 12, prompts: int = 15):
    """Votes of a Davidson model with strengths 0, .3, .6, ... and tie parameter 1/2."""
    generator = np.random.default_rng(seed)
    first = generator.integers(0, systems, n)
    second = (first + generator.integers(1, systems, n)) % systems
    gap = 0.3 * (first - second)
    weights = np.stack([np.exp(gap), 0.5 * np.exp(gap / 2), np.ones(n)], axis=1)
    edges = (weights / weights.sum(axis=1, keepdims=True)).cumsum(axis=1)
    outcomes = 1 - (generator.random(n)[:, None] > edges).sum(axis=1)
    return first, second, outcomes, generator.integers(0, evaluators, n), generator.integers(0, prompts, n)


@pytest.mark.parametrize(("model", "log_likelihood"), [("davidson", -809.710), ("rao-kupper", -809.697)])
def test_the_pudding_data_have_the_known_likelihoods(pudding: PairCounts, model, log_likelihood) -> None:
    assert rank_systems(pudding, model=model).log_likelihood == pytest.approx(log_likelihood, abs=5e-4)


def test_davidson_equals_evalica_on_the_pudding_data(pudding: PairCounts) -> None:
    # evalica 0.4.2 newman(tolerance=1e-13); its v is nu/2, and it stops about 1e-6 early
    evalica = [-0.17656077, 0.04368113, -0.02358307, -0.00141586, -0.04269555, 0.20057412]
    found = rank_systems(pudding)
    assert found.strength == pytest.approx(evalica, abs=2e-6)
    assert found.nu == pytest.approx(2 * 0.3734114938, abs=5e-6)
    assert found.goodness_of_fit is not None
    assert found.goodness_of_fit.degrees_of_freedom == 24
    assert found.goodness_of_fit.p == pytest.approx(0.896, abs=1e-3)


def test_half_ties_equal_evalica_and_statsmodels_on_the_pudding_data(pudding: PairCounts) -> None:
    # evalica 0.4.2 bradley_terry and a statsmodels 0.15.0 binomial GLM agree on these to 1e-14
    other = [
        -0.12850923909977,
        0.03179958035540,
        -0.01716581338377,
        -0.00102890183273,
        -0.03107885570188,
        0.14598322966276,
    ]
    assert rank_systems(pudding, model="bradley-terry").strength == pytest.approx(other, abs=1e-9)


def test_without_ties_all_models_equal_choix(pudding: PairCounts) -> None:
    # choix 0.4.1 opt_pairwise(tol=1e-12)
    choix = [-0.17528643, 0.04369351, -0.02171714, -0.00486339, -0.04036171, 0.19853515]
    counts = pudding.counts * [1, 0, 1]
    bare = PairCounts(systems=pudding.systems, first=pudding.first, second=pudding.second, counts=counts)
    for model in ("davidson", "rao-kupper", "bradley-terry"):
        found = rank_systems(bare, model=model)
        assert found.strength == pytest.approx(choix, abs=1e-7)
        assert found.goodness_of_fit is not None
        assert found.goodness_of_fit.degrees_of_freedom == 10


def test_table_1_rejects_one_tie_parameter() -> None:
    found = rank_systems(pair_counts(STAR))
    assert found.nu == pytest.approx(0.638548, abs=1e-6)
    assert found.goodness_of_fit is not None
    assert found.goodness_of_fit.statistic == pytest.approx(159.384, abs=1e-3)
    assert found.goodness_of_fit.degrees_of_freedom == 4
    assert found.goodness_of_fit.p == pytest.approx(1.98e-33, rel=0.01)
    elo = [0, -285.69, -270.41, -291.09, -163.13, -142.28]
    assert found.elo("MagicVideo-V2") == pytest.approx(elo, abs=0.006)
    assert "star around MagicVideo-V2" in found.notes[0]


def test_table_1_by_bradley_and_terry_is_the_closed_form_of_a_star() -> None:
    found = rank_systems(pair_counts(STAR), model="bradley-terry")
    closed = [-400 * math.log10((g + s / 2) / (b + s / 2)) for _, _, g, s, b in STAR]
    assert found.elo("MagicVideo-V2")[1:] == pytest.approx(closed, abs=1e-6)
    assert closed == pytest.approx([-213.63, -202.48, -217.55, -123.09, -107.48], abs=0.006)
    assert found.goodness_of_fit is None


def test_a_tie_parameter_for_each_pair_of_a_star_fits_exactly() -> None:
    found = rank_systems(pair_counts(STAR), ties_by_pair=True)
    assert found.goodness_of_fit is not None
    assert found.goodness_of_fit.statistic == pytest.approx(0, abs=1e-6)
    assert (found.goodness_of_fit.degrees_of_freedom, found.goodness_of_fit.p) == (0, None)
    nu = {second: value for _, second, value in found.nu_by_pair}
    for _, competitor, good, same, bad in STAR:
        assert nu[competitor] == pytest.approx(same / math.sqrt(good * bad), rel=1e-6)


def test_wikipedia_example() -> None:
    # https://en.wikipedia.org/wiki/Bradley-Terry_model, "Worked example of solution procedure"
    rows = [("A", "B", 2, 0, 3), ("A", "D", 1, 0, 4), ("B", "C", 5, 0, 3), ("C", "D", 1, 0, 3)]
    found = rank_systems(pair_counts(rows), model="bradley-terry")
    strength = dict(zip(found.systems, np.exp(np.array(found.strength, float)), strict=True))
    assert [round(strength[name], 3) for name in "ABCD"] == [0.640, 1.043, 0.660, 2.270]


def test_home_advantage_of_the_1987_league() -> None:
    # Agresti (2002), section 10.6: abilities relative to Baltimore, home advantage .302
    with (DATA / "agresti2002_baseball.csv").open(newline="", encoding="utf-8") as file:
        games = list(csv.DictReader(file))
    names = list(dict.fromkeys(game["home"] for game in games))
    votes = [
        (names.index(game["home"]), names.index(game["away"]), outcome)
        for game in games
        for outcome, key in ((1, "home_wins"), (-1, "away_wins"))
        for _ in range(int(game[key]))
    ]
    home, away, outcomes = np.array(votes).T
    found = rank_systems(count_pairs(home, away, outcomes, names, sides=True), side_effect=True)
    assert found.side_effect is not None
    assert found.side_effect.value == pytest.approx(0.302, abs=5e-4)
    assert found.side_effect.standard_error == pytest.approx(0.131, abs=5e-4)
    assert found.side_effect.interval[0] > 0
    plain = rank_systems(count_pairs(home, away, outcomes, names), model="bradley-terry")
    ability = np.array(plain.strength, float) - float(plain.strength[-1] or 0)
    assert ability == pytest.approx([1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0], abs=6e-4)


def test_counting_merges_both_orders_unless_sides_matter() -> None:
    first, second, outcomes = np.array([0, 1, 1]), np.array([1, 0, 0]), np.array([1, 1, 0])
    merged = count_pairs(first, second, outcomes, ["a", "b"])
    assert (merged.first.tolist(), merged.counts.tolist()) == ([0], [[1, 1, 1]])
    kept = count_pairs(first, second, outcomes, ["a", "b"], sides=True)
    assert kept.counts.tolist() == [[1, 0, 0], [1, 1, 0]]


def test_relabelling_systems_and_swapping_sides_change_nothing() -> None:
    first, second, outcomes, _, _ = _votes(1, 3000)
    found = rank_systems(count_pairs(first, second, outcomes, "abcd"))
    swapped = rank_systems(count_pairs(3 - second, 3 - first, -outcomes, "dcba"))
    assert found.strength == pytest.approx(swapped.strength[::-1], abs=1e-9)
    assert found.log_likelihood == pytest.approx(swapped.log_likelihood, rel=1e-12)


def test_estimates_are_near_the_truth_and_naive_errors_are_honest() -> None:
    first, second, outcomes, _, _ = _votes(2, 20_000)
    pairs = count_pairs(first, second, outcomes, "abcd")
    naive = rank_systems(pairs)
    drawn = rank_systems(pairs, resampled=redraw_counts(pairs), error_method="votes")
    assert naive.strength == pytest.approx([-0.45, -0.15, 0.15, 0.45], abs=0.06)
    assert naive.nu == pytest.approx(0.5, abs=0.05)
    assert drawn.standard_error == pytest.approx(naive.standard_error, rel=0.12)
    assert (naive.error_method, drawn.error_method, drawn.failed_resamples) == ("naive", "votes", 0)
    assert naive.rank_interval == (None,) * 4
    assert drawn.rank_interval == ((4, 4), (3, 3), (2, 2), (1, 1))


def test_a_redrawn_study_is_the_weighted_recount() -> None:
    first, second, outcomes, evaluators, prompts = _votes(3, 400)
    pairs = count_pairs(first, second, outcomes, "abcd")
    drawn = resample_pairs(
        pairs, first, second, outcomes, evaluators=evaluators, prompts=prompts, resamples=300, seed=1
    )
    generator = np.random.default_rng(1)
    by_evaluator, by_prompt = cluster_weights(generator, 300, 12), cluster_weights(generator, 300, 15)
    weights = by_evaluator[:, evaluators] * by_prompt[:, prompts]
    low, high = np.minimum(first, second), np.maximum(first, second)
    verdict = np.where(first < second, 1 - outcomes, 1 + outcomes)
    for cell, (i, j) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        for place in range(3):
            here = (low == i) & (high == j) & (verdict == place)
            assert np.allclose(drawn[:, cell, place], weights[:, here].sum(axis=1))


def test_large_tables_are_counted_sparsely_with_the_same_result(monkeypatch) -> None:
    first, second, outcomes, evaluators, prompts = _votes(4, 500)
    pairs = count_pairs(first, second, outcomes, "abcd")
    arguments = {"evaluators": evaluators, "prompts": prompts, "resamples": 20}
    dense = resample_pairs(pairs, first, second, outcomes, **arguments)
    monkeypatch.setattr("arena.resampling.DENSE_CELLS", 0)
    assert np.allclose(resample_pairs(pairs, first, second, outcomes, **arguments), dense)


def test_rank_intervals_hold_together_under_equality() -> None:
    generator = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        estimate = generator.normal(size=6)
        redrawn = estimate + generator.normal(size=(400, 6))
        wrong += any(place != (1, 6) for place in rank_intervals(estimate, redrawn, 0.95))
    assert wrong / 200 < 0.09


def test_rank_intervals_name_the_tied() -> None:
    redrawn = np.array([0.0, 0.05, 5.0]) + 0.3 * np.random.default_rng(6).normal(size=(500, 3))
    assert rank_intervals(np.array([0.0, 0.05, 5.0]), redrawn, 0.95) == [(2, 3), (2, 3), (1, 1)]


def test_systems_that_never_met_are_not_ranked_together() -> None:
    rows = [("a", "b", 5, 2, 3), ("c", "d", 4, 1, 6)]
    found = rank_systems(pair_counts(rows))
    assert found.components == (("a", "b"), ("c", "d"))
    assert found.rank == (1, 2, 2, 1)
    assert found.strength[0] == pytest.approx(-(found.strength[1] or 0))
    assert any("not ranked together" in note for note in found.notes)
    assert any("2 parts that share no system" in note for note in found.notes)


def test_a_system_that_won_everything_stands_alone() -> None:
    rows = [("best", "a", 9, 0, 0), ("best", "b", 9, 0, 0), ("a", "b", 5, 2, 3)]
    found = rank_systems(pair_counts(rows), model="davidson")
    assert found.components == (("a", "b"), ("best",))
    assert (found.strength[0], found.rank[0]) == (None, None)
    assert found.rank[1:] == (1, 2)


def test_only_ties_rank_nobody() -> None:
    found = rank_systems(pair_counts([("a", "b", 0, 7, 0)]))
    assert (found.strength, found.rank, found.log_likelihood) == ((None, None), (None, None), None)
    assert "Every vote within a group is a tie" in found.notes[-1]


def test_contradicting_options_and_bad_votes_are_refused(pudding: PairCounts) -> None:
    with pytest.raises(ValueError, match="needs the model 'davidson'"):
        rank_systems(pudding, model="rao-kupper", ties_by_pair=True)
    with pytest.raises(ValueError, match="keep sides"):
        rank_systems(pudding, side_effect=True)
    zero, one = np.array([0]), np.array([1])
    with pytest.raises(ValueError, match="two different systems"):
        count_pairs(zero, zero, one, "ab")
    with pytest.raises(ValueError, match="outcomes must lie"):
        count_pairs(zero, one, np.array([2]), "ab")
    with pytest.raises(ValueError, match="cannot meet itself"):
        pair_counts([("a", "a", 1, 1, 1)])


def test_redrawn_studies_without_a_vote_do_not_stop_the_ranking() -> None:
    pairs = PairCounts(
        systems=("a", "b", "c"),
        first=np.array([0, 0]),
        second=np.array([1, 2]),
        counts=np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]]),
    )
    resampled = np.stack([pairs.counts, np.zeros((2, 3)), [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    ranking = rank_systems(pairs, resampled=resampled, error_method="votes")
    assert np.all(np.isfinite([value for value in ranking.strength if value is not None]))
