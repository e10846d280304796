from typing import Any

import pytest

from evaluation.report.model import StudySection
from evaluation.report.numbers import difference, ends, number
from evaluation.report.sentences import ablation_answer, headline, study_answer, verdict


def comparison(
    competitor: str,
    ratio: float | None,
    interval: tuple[float, float] | None,
    n: int = 100,
    candidate: str = "A",
) -> dict[str, Any]:
    outcome = "ok" if ratio is not None else "no votes"
    return {
        "candidate": candidate,
        "competitor": competitor,
        "criterion": "overall",
        "n": n,
        "ratio": ratio,
        "interval": interval,
        "outcome": outcome,
    }


def answer(*comparisons: dict[str, Any], state: str = "open") -> str:
    return study_answer("mine", state, comparisons, "make arena")


def section(name: str, votes: int, origin: str) -> StudySection:
    return StudySection(name, "open", f"answer of {name}", votes, {"votes": origin}, {}, (), (), ())


def test_study_without_votes_says_how_to_vote() -> None:
    assert answer(comparison("B", None, None, 0)) == "No votes yet in study mine: vote with make arena."
    assert "it is closed" in answer(comparison("B", None, None, 0), state="closed")


def test_one_pair_is_decided_only_by_an_interval_without_one() -> None:
    assert answer(comparison("B", 2.0, (1.5, 2.5))).startswith(
        "A was preferred to B: (G+S)/(B+S) = 2.00 [1.50,"
    )
    assert answer(comparison("B", 0.5, (0.4, 0.6))).startswith("A lost to B")
    assert "is not decided" in answer(comparison("B", 1.4, (0.9, 2.1)))


def test_several_competitors_are_told_apart() -> None:
    mixed = answer(
        comparison("B", 2.0, (1.5, 2.5)), comparison("C", 1.1, (0.8, 1.4)), comparison("D", 0.5, (0.4, 0.6))
    )
    assert mixed.startswith("A was preferred to B, not decided against C, behind D:")
    assert "from 0.50 [0.40, 0.60] against D to 2.00 [1.50, 2.50] against B, 300 human votes" in mixed
    assert answer(comparison("B", 2.0, (1.5, 2.5)), comparison("C", 3.0, (2.0, 4.0))).startswith(
        "A was preferred to all 2 competitors"
    )


def test_votes_collected_here_come_before_more_votes_from_elsewhere() -> None:
    sections = [section("table", 30_600, "imported counts"), section("ours", 12, "collected here")]
    assert headline(sections, videos=0, scores=0) == "answer of ours"
    assert headline(sections[:1], videos=0, scores=0) == "answer of table"


@pytest.mark.parametrize(
    ("videos", "expected"), [(0, "This database is empty"), (4, "Nobody has been asked yet")]
)
def test_database_without_studies_says_so(videos: int, expected: str) -> None:
    assert headline([], videos=videos, scores=0).startswith(expected)


def test_numbers_are_written_for_readers() -> None:
    assert number(30600, 0) == "30,600"
    assert number(-0.5) == "−0.50"
    assert number(None) == "–"
    assert ends((1.004, None)) == ("1.004", "∞")
    assert ends((1.0, 1234.5)) == ("1.00", "1,234.50")


@pytest.mark.parametrize(
    ("mean", "low", "high", "text"),
    [
        (0.0, 0.0, 0.0, "0 (identical)"),
        (-0.0, -0.0, 0.0, "0 (identical)"),
        (0.0, -0.25, 0.25, "0 [−0.25, +0.25]"),
        (1.25e-7, 0.0, 2.5e-7, "+1.25e−07 [0, +2.5e−07]"),
        (0.0, None, None, "0"),
    ],
)
def test_equal_pairs_are_told_from_small_differences(
    mean: float, low: float | None, high: float | None, text: str
) -> None:
    assert difference(mean, low, high) == text


def test_ablation_answer_says_which_arm_is_the_same() -> None:
    def row(arm: str, mean: float, half: float) -> dict[str, Any]:
        advantage = {"mean": mean, "low": mean - half, "high": mean + half, "n": 4}
        named = {"arm": arm, "at": "end", "metric": "flicker", "signature": "s", "unit": ""}
        return named | {"direction": "lower", "advantage": advantage}

    said = ablation_answer({"rows": [row("-vfi", 0.0, 0.0), row("-v2v", 0.5, 0.25)]})
    assert "changes by +0.5 [+0.25, +0.75] for -v2v, 0 (identical) for -vfi; 4 prompts" in said


def test_missing_interval_decides_nothing() -> None:
    assert verdict(comparison("B", 2.0, None)) == "undecided"
