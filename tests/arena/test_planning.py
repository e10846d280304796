"""Power and sample size against the published table and simulation."""

import math

import numpy as np
import pytest

from arena.planning import Design, plan, required_votes, votes_for_precision

TABLE = {
    1.05: (13197, 7332, 4040),
    1.1: (3464, 1925, 1061),
    1.2: (953, 530, 292),
    1.5: (199, 111, 61),
    2.0: (74, 41, 23),
}
PAPER = Design(ratio=1.2, ties=0.2, evaluators=61, prompts=100)


@pytest.mark.parametrize("ratio", TABLE)
def test_votes_for_power_80(ratio: float) -> None:
    for ties, votes in zip((0, 0.2, 0.4), TABLE[ratio], strict=True):
        assert required_votes(ratio, ties) == pytest.approx(votes, abs=1)
        assert required_votes(ratio, ties, power=0.9) / required_votes(ratio, ties) == pytest.approx(
            1.339, abs=5e-4
        )


def test_the_papers_design_has_power_786_for_a_ratio_of_1_2() -> None:
    assert PAPER.design_effect == pytest.approx(11.95)
    assert PAPER.power == pytest.approx(0.786, abs=5e-4)
    base, prompts, evaluators, votes = plan(PAPER).options
    assert base.design is PAPER
    assert prompts.design.power == pytest.approx(0.905, abs=5e-4)
    assert evaluators.design.power == pytest.approx(0.886, abs=5e-4)
    assert votes.design.votes == 2 * PAPER.votes
    assert votes.design.power - PAPER.power < 0.02
    assert "more votes of the same evaluators on the same prompts buy almost nothing" in plan(PAPER).sentence


def test_independent_votes_have_the_power_they_were_planned_for() -> None:
    votes = math.ceil(required_votes(1.5, 0.2))
    design = Design(
        ratio=1.5, ties=0.2, evaluators=votes, prompts=1, rho_evaluator=0, rho_prompt=0, votes_per_evaluator=1
    )
    assert design.power == pytest.approx(0.8, abs=0.003)
    good = 1.5 * 1.2 / 2.5 - 0.2
    drawn = np.random.default_rng(1).multinomial(votes, [good, 0.2, 0.8 - good], size=4000)
    g, s, b = drawn.T
    z = np.log((g + s) / (b + s)) / np.sqrt((g + b) / ((g + s) * (b + s)))
    assert (np.abs(z) > 1.959964).mean() == pytest.approx(0.8, abs=0.025)


def test_what_is_needed_is_enough_and_one_fewer_is_not() -> None:
    found = plan(PAPER, power=0.9)
    for field, needed in (("evaluators", found.evaluators_needed), ("prompts", found.prompts_needed)):
        assert needed is not None
        sizes = {"evaluators": 61, "prompts": 100}
        enough = Design(ratio=1.2, ties=0.2, **(sizes | {field: needed}))
        short = Design(ratio=1.2, ties=0.2, **(sizes | {field: needed - 1}))
        assert enough.power >= 0.9 - 1e-6 > short.power


def test_no_number_of_evaluators_makes_up_for_few_prompts() -> None:
    found = plan(Design(ratio=1.2, ties=0.2, evaluators=61, prompts=10))
    assert found.evaluators_needed is None
    assert found.prompts_needed is not None


def test_the_detectable_ratio_has_the_power_asked_for() -> None:
    ratio = plan(PAPER, power=0.8).detectable_ratio
    assert ratio is not None
    assert Design(ratio=ratio, ties=0.2, evaluators=61, prompts=100).power == pytest.approx(0.8, abs=1e-3)
    tied = Design(ratio=1.05, ties=0.9, evaluators=2, prompts=2)
    assert plan(tied).detectable_ratio is None


def test_precision_is_the_width_of_the_interval() -> None:
    votes = votes_for_precision(1.2, 0.2, PAPER.half_width, design_effect=PAPER.design_effect)
    assert votes == pytest.approx(PAPER.votes)
    with pytest.raises(ValueError, match="factor"):
        votes_for_precision(1.2, 0.2, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ratio": 1.0}, "not 1"),
        ({"ratio": 6.0}, "lies between 0.2 and 5"),
        ({"ties": 1.0}, "tie share"),
        ({"evaluators": 0}, "evaluators must be 1"),
        ({"rho_prompt": 0.99}, "at most 1 together"),
        ({"alpha": 0.0}, "alpha"),
        ({"votes_per_evaluator": 0}, "votes_per_evaluator"),
    ],
)
def test_impossible_designs_are_refused(change, words: str) -> None:
    fields = {"ratio": 1.2, "ties": 0.2, "evaluators": 61, "prompts": 100} | change
    with pytest.raises(ValueError, match=words):
        Design(**fields)
