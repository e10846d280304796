"""The ratio against published tables, closed forms and independent implementations."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from arena.preference import (
    bootstrap_ratio,
    clustered_se,
    gsb_ratio,
    influence,
    interval_by_method,
    naive_se_log_ratio,
    sign_flip_test,
    sign_test,
)

DATA = Path(__file__).parent.parent / "data"
TABLE_1 = {
    "MoonValley": (4099, 1242, 759, 2.669165, 0.021320),
    "Pika 1.0": (4263, 927, 1010, 2.679401, 0.022902),
    "Morph": (4129, 1230, 741, 2.718924, 0.021472),
    "Gen-2": (3448, 1279, 1373, 1.782428, 0.019611),
    "SVD-XT": (3169, 1591, 1340, 1.624019, 0.017977),
}


@pytest.mark.parametrize("competitor", TABLE_1)
def test_table_1_of_the_paper_is_reproduced(competitor: str) -> None:
    good, same, bad, ratio, error = TABLE_1[competitor]
    found = gsb_ratio(good, same, bad)
    assert found.ratio == pytest.approx(ratio, abs=1e-6)
    assert found.se_log_ratio == pytest.approx(error, abs=1e-6)
    assert found.bound is not None
    assert 1 / found.bound < found.ratio < found.bound


def test_resadapter_table_3_is_reproduced_to_its_rounding() -> None:
    with (DATA / "resadapter_table3_gsb.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    for row in rows:
        found = gsb_ratio(int(row["good"]), int(row["same"]), int(row["bad"]))
        assert found.ratio == pytest.approx(float(row["published_ratio"]), abs=0.0101)


def test_interval_is_log_normal_around_the_ratio() -> None:
    found = gsb_ratio(40, 30, 20, level=0.9)
    error = math.sqrt(60 / (70 * 50))
    assert found.interval == pytest.approx(
        (1.4 * math.exp(-1.6448536 * error), 1.4 * math.exp(1.6448536 * error)), rel=1e-6
    )


def test_swapping_sides_inverts_the_ratio_and_its_interval() -> None:
    ours, theirs = gsb_ratio(40, 30, 20), gsb_ratio(20, 30, 40)
    assert ours.ratio is not None
    assert ours.interval is not None
    assert theirs.ratio == pytest.approx(1 / ours.ratio)
    assert theirs.interval == pytest.approx((1 / ours.interval[1], 1 / ours.interval[0]))
    assert theirs.sign_test_p == pytest.approx(ours.sign_test_p)


def test_no_votes_are_named() -> None:
    found = gsb_ratio(0, 0, 0)
    assert found.outcome == "no votes"
    assert (found.ratio, found.interval, found.tie_share, found.sign_test_p) == (None, None, None, None)


def test_only_ties_carry_no_information() -> None:
    found = gsb_ratio(0, 7, 0)
    assert found.outcome == "no information"
    assert found.ratio == 1
    assert found.interval is None
    assert found.se_log_ratio is None


def test_an_unbeaten_candidate_has_no_ratio_but_a_lower_end() -> None:
    found = gsb_ratio(9, 0, 0)
    assert found.outcome == "infinite"
    assert found.ratio is None
    assert found.interval is not None
    assert 1 < found.interval[0] < found.interval[1] < math.inf
    assert "half a vote" in found.interval_method


def test_a_beaten_candidate_has_ratio_zero() -> None:
    found = gsb_ratio(0, 0, 9)
    assert (found.outcome, found.ratio) == ("zero", 0)
    assert found.interval is not None
    assert found.interval[0] > 0


@pytest.mark.parametrize("counts", [(-1, 0, 0), (0, -1, 3), (1, 1, -2)])
def test_negative_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="whole number of votes"):
        gsb_ratio(*counts)


def test_sign_test_is_the_exact_binomial() -> None:
    tail = sum(math.comb(12, k) for k in range(10, 13)) / 2**12
    assert sign_test(10, 2) == pytest.approx(2 * tail)
    assert sign_test(0, 0) is None


def _studied_votes(
    generator: np.random.Generator, evaluators: int, prompts: int, spread: tuple[float, float]
):
    """Every evaluator judges every prompt: +1, 0 or -1 by a latent normal with effects of both."""
    rows, columns = np.divmod(np.arange(evaluators * prompts), prompts)
    latent = 0.3 + generator.normal(size=rows.size)
    latent += spread[0] * generator.normal(size=evaluators)[rows]
    latent += spread[1] * generator.normal(size=prompts)[columns]
    return np.where(latent > 0.4, 1, np.where(latent < -0.4, -1, 0)), rows, columns


def test_influences_sum_to_zero_and_give_the_naive_error() -> None:
    outcomes = np.repeat([1, 0, -1], (40, 30, 20))
    assert influence(outcomes).sum() == pytest.approx(0, abs=1e-9)
    assert clustered_se(outcomes).naive == pytest.approx(naive_se_log_ratio(40, 30, 20))


def test_clustered_errors_equal_a_plain_loop() -> None:
    outcomes, rows, columns = _studied_votes(np.random.default_rng(3), 7, 11, (0.5, 0.8))
    keep = np.random.default_rng(4).random(outcomes.size) < 0.6
    outcomes, rows, columns = outcomes[keep], rows[keep], columns[keep]
    psi, n = influence(outcomes), len(outcomes)

    def plain(keys: list[object]) -> float:
        sums: dict[object, float] = {}
        for key, value in zip(keys, psi, strict=True):
            sums[key] = sums.get(key, 0.0) + value
        return sum(total**2 for total in sums.values()) / n**2 * len(sums) / (len(sums) - 1)

    by_row, by_column = plain(list(rows)), plain(list(columns))
    both = plain(list(zip(rows, columns, strict=True)))
    found = clustered_se(outcomes, list(rows), [f"prompt {column}" for column in columns])
    assert found.evaluator == pytest.approx(math.sqrt(by_row))
    assert found.prompt == pytest.approx(math.sqrt(by_column))
    assert found.two_way == pytest.approx(math.sqrt(max(by_row + by_column - both, by_row, by_column)))
    assert (found.evaluators, found.prompts, found.method) == (7, 11, "two-way")


def test_clustered_interval_uses_the_law_of_the_fewer_clusters() -> None:
    outcomes, rows, columns = _studied_votes(np.random.default_rng(3), 21, 30, (0.5, 0.8))
    error = clustered_se(outcomes, list(rows), list(columns))
    counts = [int((outcomes == value).sum()) for value in (1, 0, -1)]
    found = gsb_ratio(*counts, clustered=error)
    assert found.ratio is not None
    assert found.interval is not None
    assert error.two_way is not None
    expected = math.exp(math.log(found.ratio) + float(stats.t.ppf(0.975, 20)) * error.two_way)
    assert found.interval[1] == pytest.approx(expected)
    assert found.interval_method == "two-way"


def test_two_way_interval_covers_where_the_naive_one_does_not() -> None:
    generator = np.random.default_rng(20240115)
    spread = (0.5, 0.8)
    scale = math.sqrt(1 + spread[0] ** 2 + spread[1] ** 2)
    good, bad = stats.norm.cdf(-0.1 / scale), stats.norm.cdf(-0.7 / scale)
    truth = (1 - bad) / (1 - good)
    covered = {"naive": 0, "two-way": 0}
    studies = 200
    for _ in range(studies):
        outcomes, rows, columns = _studied_votes(generator, 61, 100, spread)
        counts = [int((outcomes == value).sum()) for value in (1, 0, -1)]
        error = clustered_se(outcomes, rows.tolist(), columns.tolist())
        for found in (gsb_ratio(*counts), gsb_ratio(*counts, clustered=error)):
            assert found.interval is not None
            covered[found.interval_method] += found.interval[0] <= truth <= found.interval[1]
    assert covered["naive"] / studies < 0.5
    assert 0.90 <= covered["two-way"] / studies <= 0.98


def test_wrong_lengths_and_unknown_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="must name each of the 3 votes"):
        clustered_se([1, 0, -1], ["a"])
    with pytest.raises(ValueError, match="outcomes must be"):
        clustered_se([2, 0, -1])


def _log_ratio(outcomes: np.ndarray) -> float:
    good, same, bad = ((outcomes == value).sum() for value in (1, 0, -1))
    return math.log((good + same) / (bad + same))


def test_the_jackknife_leaves_out_one_cluster_at_a_time() -> None:
    outcomes, rows, columns = _studied_votes(np.random.default_rng(5), 6, 9, (0.5, 0.8))
    whole = _log_ratio(outcomes)

    def plain(codes: np.ndarray) -> float:
        left = [(_log_ratio(outcomes[codes != code]) - whole) ** 2 for code in np.unique(codes)]
        return sum(left) * (len(left) - 1) / len(left)

    by_row, by_column, both = plain(rows), plain(columns), plain(np.arange(len(rows)))
    error = clustered_se(outcomes, rows.tolist(), columns.tolist())
    assert error.jackknife == pytest.approx(math.sqrt(max(by_row + by_column - both, by_row, by_column)))
    assert clustered_se(outcomes, rows.tolist()).jackknife == pytest.approx(math.sqrt(by_row))
    counts = [int((outcomes == value).sum()) for value in (1, 0, -1)]
    found = gsb_ratio(*counts, clustered=error)
    assert found.interval_method == "two-way jackknife"
    assert found.se_log_ratio == error.jackknife
    assert found.interval == interval_by_method(*counts, error)["jackknife"]


def test_few_clusters_are_covered_where_one_way_errors_are_not() -> None:
    generator = np.random.default_rng(6)
    scale = math.sqrt(1 + 0.5**2 + 0.8**2)
    truth = (1 - stats.norm.cdf(-0.7 / scale)) / (1 - stats.norm.cdf(-0.1 / scale))
    covered = dict.fromkeys(("naive", "evaluator", "prompt", "two_way", "jackknife"), 0)
    for _ in range(150):
        outcomes, rows, columns = _studied_votes(generator, 12, 30, (0.5, 0.8))
        counts = [int((outcomes == value).sum()) for value in (1, 0, -1)]
        error = clustered_se(outcomes, rows.tolist(), columns.tolist())
        for method, interval in interval_by_method(*counts, error).items():
            assert interval is not None
            covered[method] += interval[0] <= truth <= interval[1]
    assert covered["naive"] / 150 < 0.75
    assert covered["jackknife"] / 150 > 0.91


def test_the_pigeonhole_bootstrap_agrees_with_the_two_way_error() -> None:
    outcomes, rows, columns = _studied_votes(np.random.default_rng(7), 40, 50, (0.5, 0.8))
    error = clustered_se(outcomes, rows.tolist(), columns.tolist())
    drawn = bootstrap_ratio(outcomes, rows.tolist(), columns.tolist())
    assert drawn is not None
    assert drawn.standard_error == pytest.approx(error.two_way, rel=0.15)
    assert drawn.redrawn == "evaluators and prompts"
    assert drawn.failed == 0
    assert drawn.interval[0] < math.exp(_log_ratio(outcomes)) < drawn.interval[1]
    alone = bootstrap_ratio(outcomes, rows.tolist())
    plain = bootstrap_ratio(outcomes)
    assert alone is not None
    assert plain is not None
    assert alone.standard_error == pytest.approx(error.evaluator, rel=0.15)
    assert plain.standard_error == pytest.approx(error.naive, rel=0.1)
    assert (alone.redrawn, plain.redrawn) == ("evaluators", "votes")


def test_a_ratio_that_is_rarely_finite_has_no_bootstrap() -> None:
    assert bootstrap_ratio([1, 1, 1, -1], ["a", "a", "a", "b"]) is None


def test_flipping_signs_of_evaluators_equals_counting_all_of_them() -> None:
    outcomes = np.array([1, 1, 1, 1, 1, 0, 1, -1, 1, 1, -1, 1])
    people = np.repeat(np.arange(6), 2)
    sums = np.bincount(people, weights=outcomes)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    exact = (np.abs(sums @ signs) >= abs(sums.sum())).mean()
    assert sign_flip_test(outcomes, people.tolist()) == pytest.approx(exact, abs=0.02)
    assert sign_flip_test([0, 0], ["a", "b"]) is None
