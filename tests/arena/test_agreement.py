"""Agreement against worked examples, plain loops and limiting cases."""

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from arena.agreement import (
    Ratings,
    agreement,
    category_weights,
    gwet_ac2,
    krippendorff_alpha,
    pairwise_agreement,
    repeat_consistency,
)
from arena.resampling import cluster_weights

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def worked_example() -> Ratings:
    """Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section D."""
    with (DATA / "krippendorff2011_reliability.csv").open(newline="", encoding="utf-8") as file:
        rows = [list(row.values())[1:] for row in csv.DictReader(file)]
    triples = [
        (unit, observer, int(value) - 1)
        for observer, row in enumerate(rows)
        for unit, value in enumerate(row)
        if value
    ]
    units, evaluators, categories = np.array(triples).T
    return Ratings(units=units, evaluators=evaluators, categories=categories, category_count=5)


@pytest.fixture(scope="module")
def abstractors() -> Ratings:
    """Gwet (2014), table 4.1: two abstractors, 100 pregnancies, three categories."""
    table = [[13, 0, 0], [0, 20, 7], [0, 4, 56]]
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(table[i][j])]
    return Ratings(
        units=np.repeat(np.arange(100), 2),
        evaluators=np.tile([0, 1], 100),
        categories=np.array(pairs).ravel(),
        category_count=3,
    )


@pytest.fixture(scope="module")
def votes() -> Ratings:
    """30 units on 10 prompts, each judged by 9 of 14 evaluators."""
    generator = np.random.default_rng(7)
    shares = generator.dirichlet([3, 1, 2], 30).cumsum(axis=1)
    people = np.concatenate([generator.permutation(14)[:9] for _ in range(30)])
    units = np.repeat(np.arange(30), 9)
    categories = (generator.random(270)[:, None] > shares[units]).sum(axis=1)
    return Ratings(
        units=units, evaluators=people, categories=categories, category_count=3, clusters=np.arange(30) // 3
    )


@pytest.mark.parametrize(
    ("metric", "alpha"), [("nominal", 0.743421053), ("ordinal", 0.815387504), ("interval", 0.849107143)]
)
def test_krippendorffs_worked_example(worked_example: Ratings, metric, alpha: float) -> None:
    # printed there as .743, .815, .849; evalica 0.4.2 alpha gives these nine digits
    assert krippendorff_alpha(worked_example, metric).value == pytest.approx(alpha, abs=1e-9)


def test_gwets_examples(worked_example: Ratings, abstractors: Ratings) -> None:
    # irrCAC 1.0 (Gwet's own package): cac.raw4raters holds the same ratings as the worked example
    assert gwet_ac2(worked_example, "identity").value == pytest.approx(0.77544, abs=5e-6)
    assert gwet_ac2(abstractors, "identity").value == pytest.approx(0.8493305, abs=5e-8)
    assert gwet_ac2(abstractors, "quadratic").value == pytest.approx(0.94024, abs=5e-6)
    assert krippendorff_alpha(abstractors, "nominal").value == pytest.approx(0.7972585, abs=5e-8)
    assert pairwise_agreement(abstractors).value == pytest.approx(0.89)


def test_agreement_weights_are_those_of_gwet() -> None:
    assert category_weights("ordinal", 3)[0] == pytest.approx([1, 2 / 3, 0])
    assert category_weights("quadratic", 3)[0] == pytest.approx([1, 0.75, 0])
    assert category_weights("linear", 3)[0] == pytest.approx([1, 0.5, 0])


def test_coefficients_equal_plain_loops_over_pairs(votes: Ratings) -> None:
    equal = total = 0
    for unit in range(30):
        for a, b in combinations(votes.categories[votes.units == unit], 2):
            equal, total = equal + int(a == b), total + 1
    found = pairwise_agreement(votes)
    assert found.value == pytest.approx(equal / total)
    assert found.pairs == total
    share = np.bincount(votes.categories, minlength=3)
    expected = 1 - (share * (share - 1)).sum() / (270 * 269)
    assert krippendorff_alpha(votes, "nominal").value == pytest.approx(1 - (1 - equal / total) / expected)


def test_perfect_agreement_is_one_and_chance_is_zero() -> None:
    units, people = np.repeat(np.arange(400), 5), np.tile(np.arange(5), 400)
    same = Ratings(units=units, evaluators=people, categories=units % 3, category_count=3)
    guess = np.random.default_rng(8).integers(0, 3, 2000)
    chance = Ratings(units=units, evaluators=people, categories=guess, category_count=3)
    for name, coefficient in agreement(same, resamples=20).items():
        assert coefficient.value == pytest.approx(1), name
    found = agreement(chance, resamples=200)
    for name in ("alpha_nominal", "alpha_ordinal", "ac2"):
        assert found[name].value == pytest.approx(0, abs=0.04)
        assert found[name].interval is not None
        assert found[name].interval[0] < 0 < found[name].interval[1]


def test_a_redrawn_study_is_a_plain_recount(votes: Ratings) -> None:
    """Agreement of one redrawn study, pair by pair: a pair weighs the product of its people's draws."""
    generator = np.random.default_rng(3)
    by_person, by_prompt = cluster_weights(generator, 2, 14), cluster_weights(generator, 2, 10)
    drawn = []
    for people, prompts in zip(by_person, by_prompt, strict=True):
        equal = total = 0.0
        for unit in range(30):
            here = np.flatnonzero(votes.units == unit)
            for a, b in combinations(here, 2):
                weight = prompts[unit // 3] * people[votes.evaluators[a]] * people[votes.evaluators[b]]
                equal += weight * (votes.categories[a] == votes.categories[b])
                total += weight
        drawn.append(equal / total)
    found = pairwise_agreement(votes, resamples=2, seed=3)
    assert found.interval == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_intervals_tell_many_prompts_from_few() -> None:
    def width(prompts: int) -> float:
        generator = np.random.default_rng(9)
        units = np.repeat(np.arange(120), 6)
        lean = generator.dirichlet([1, 1, 1], prompts).cumsum(axis=1)[np.arange(120) % prompts]
        ratings = Ratings(
            units=units,
            evaluators=np.tile(np.arange(6), 120),
            categories=(generator.random(720)[:, None] > lean[units]).sum(axis=1),
            category_count=3,
            clusters=np.arange(120) % prompts,
        )
        interval = krippendorff_alpha(ratings, resamples=300).interval
        assert interval is not None
        return interval[1] - interval[0]

    assert width(6) > 1.2 * width(120)


def test_what_cannot_be_computed_is_absent() -> None:
    alone = Ratings(
        units=np.arange(3), evaluators=np.zeros(3, int), categories=np.array([0, 1, 2]), category_count=3
    )
    found = agreement(alone, resamples=10)
    assert {coefficient.value for coefficient in found.values()} == {None}
    nothing = Ratings(
        units=np.zeros(0, int), evaluators=np.zeros(0, int), categories=np.zeros(0, int), category_count=3
    )
    assert pairwise_agreement(nothing, resamples=10).value is None
    with pytest.raises(ValueError, match="categories must lie"):
        Ratings(
            units=np.zeros(1, int), evaluators=np.zeros(1, int), categories=np.array([3]), category_count=3
        )


def test_repeats_are_counted_by_evaluator() -> None:
    people = np.repeat(np.arange(10), 4)
    first = np.ones(40, int)
    second = np.where(people < 5, 1, -1)
    found = repeat_consistency(people, first, second)
    assert found.value == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(np.sqrt(0.25 / 10), rel=0.1)
    assert repeat_consistency(people[:0], first[:0], second[:0]).value is None
    with pytest.raises(ValueError, match="same length"):
        repeat_consistency(people, first, second[:3])
