import math

import pytest
from scipy import stats

from evaluation.report.metric_tables import MetricNames, ScoreRow, compare, metric_values, newest

NAMES = {
    "clip": MetricNames("CLIP score", "higher", ""),
    "fvd": MetricNames("Fréchet video distance", "lower", ""),
    "speed": MetricNames("Speed", "neutral", "px"),
}


def rows(system: str, metric: str, values: list[float | None], signature: str = "v:1") -> list[ScoreRow]:
    return [
        ScoreRow(
            system,
            index,
            f"prompt {index}",
            metric,
            signature,
            value,
            None if value is not None else "static",
        )
        for index, value in enumerate(values)
    ]


def test_mean_and_standard_error_over_videos() -> None:
    [value] = metric_values(*newest(rows("a", "clip", [1.0, 2.0, 6.0])), NAMES)
    assert value.value == pytest.approx(3.0)
    assert value.standard_error == pytest.approx(math.sqrt(7.0) / math.sqrt(3))
    assert (value.n, value.absent, value.reason) == (3, 0, None)


def test_missing_values_are_counted_with_their_reason_and_never_zero() -> None:
    [value] = metric_values(*newest(rows("a", "clip", [None, 2.0, None])), NAMES)
    assert (value.value, value.n, value.absent, value.reason) == (2.0, 1, 2, "static")
    [none] = metric_values(*newest(rows("a", "clip", [None])), NAMES)
    assert (none.value, none.standard_error, none.n) == (None, None, 0)


def test_value_of_the_whole_set_stands_where_it_is_not_the_plain_mean() -> None:
    frozen_counts_zero = ScoreRow("a", None, None, "clip", "v:1", 1.0, None, n=3)
    [value] = metric_values(*newest([*rows("a", "clip", [1.0, 2.0, None]), frozen_counts_zero]), NAMES)
    assert (value.value, value.n, value.standard_error) == (1.0, 3, None)
    plain = ScoreRow("a", None, None, "clip", "v:1", 1.5, None, n=2)
    [value] = metric_values(*newest([*rows("a", "clip", [1.0, 2.0, None]), plain]), NAMES)
    assert value.standard_error == pytest.approx(0.5)


def test_only_the_newest_measurement_counts() -> None:
    old, new = rows("a", "clip", [9.0, 9.0], "v:1"), rows("a", "clip", [1.0, 3.0], "v:2")
    [value] = metric_values(*newest([*old, *new]), NAMES)
    assert (value.value, value.signature) == (2.0, "v:2")


def test_different_signatures_are_marked_and_not_subtracted() -> None:
    scored = newest([*rows("a", "clip", [1.0] * 4, "v:1"), *rows("b", "clip", [2.0] * 4, "v:2")])
    assert [item.comparable for item in metric_values(*scored, NAMES)] == [False, False]
    [comparison] = compare(scored[0], "a", NAMES)
    assert comparison.difference is None
    assert "not comparable" in str(comparison.reason)


def test_paired_difference_and_student_interval() -> None:
    ours, theirs = [1.0, 2.0, 4.0, 4.0], [0.5, 1.0, 2.5, 5.0]
    groups, _ = newest([*rows("a", "clip", ours), *rows("b", "clip", theirs)])
    [comparison] = compare(groups, "a", NAMES)
    oracle = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert comparison.difference == pytest.approx(0.5)
    assert comparison.interval == pytest.approx((oracle.low, oracle.high))
    assert (comparison.better, comparison.worse, comparison.n) == (3, 1, 4)
    assert comparison.verdict == "no clear difference"


def test_swapping_the_systems_turns_the_reading_around() -> None:
    scored, _ = newest([*rows("a", "fvd", [1.0, 1.1, 1.2]), *rows("b", "fvd", [2.0, 2.1, 2.3])])
    [forth], [back] = compare(scored, "a", NAMES), compare(scored, "b", NAMES)
    assert (forth.verdict, back.verdict) == ("better", "worse")  # lower is better
    assert (forth.better, back.worse) == (3, 3)
    assert forth.difference == pytest.approx(-(back.difference or 0))


def test_describing_metrics_are_not_judged_and_few_prompts_have_no_interval() -> None:
    scored, _ = newest([*rows("a", "speed", [1.0, 2.0, 3.0]), *rows("b", "speed", [5.0, 6.0, 7.0])])
    [comparison] = compare(scored, "a", NAMES)
    assert (comparison.verdict, comparison.better, comparison.worse) == ("not judged", 0, 0)
    scored, _ = newest([*rows("a", "clip", [1.0, 2.0]), *rows("b", "clip", [5.0, 6.0])])
    [comparison] = compare(scored, "a", NAMES)
    assert (comparison.interval, comparison.n) == (None, 2)


def test_seeds_are_averaged_within_a_prompt() -> None:
    twice = [ScoreRow("a", seed, "p", "clip", "v:1", value, None) for seed, value in ((0, 1.0), (1, 3.0))]
    scored, _ = newest([*twice, ScoreRow("b", 2, "p", "clip", "v:1", 1.0, None)])
    [comparison] = compare(scored, "a", NAMES)
    assert (comparison.difference, comparison.n) == (1.0, 1)
