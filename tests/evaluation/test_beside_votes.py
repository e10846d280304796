"""Metrics beside votes, on votes whose law is known."""

from typing import Any

import numpy as np
import pytest

from arena.tally import VoteRow
from evaluation.report.beside_votes import HELD_OUT_BAND, beside_votes, unanswered
from evaluation.report.metric_tables import Groups, MetricNames, ScoreRow
from evaluation.report.model import BesideVotes, MetricAgreement, StudySection
from evaluation.report.pseudo import PAPER_BAND

NAMES = {
    "clip": MetricNames("CLIP score", "higher", ""),
    "warp_residual": MetricNames("Warp residual", "lower", ""),
    "speed": MetricNames("Speed", "neutral", ""),
}
LABELS = {0: "ours", 1: "near", 2: "far", 3: "farther"}
PEOPLE = 5


def group(system: str, metric: str, values: list[float | None], signature: str = "s") -> list[ScoreRow]:
    return [
        ScoreRow(
            system, place, f"p{place}", metric, signature, value, None if value is not None else "static"
        )
        for place, value in enumerate(values)
    ]


def study(votes: list[VoteRow]) -> StudySection:
    comparisons = []
    for rival in sorted({vote.competitor for vote in votes}):
        cast = [vote.outcome for vote in votes if vote.competitor == rival]
        good, same, bad = (cast.count(verdict) for verdict in (1, 0, -1))
        comparisons.append(
            {
                "candidate": "ours",
                "competitor": LABELS[rival],
                "criterion": "overall",
                "good": good,
                "same": same,
                "bad": bad,
                "n": len(cast),
                "ratio": (good + same) / (bad + same) if bad + same else None,
                "interval": None,
            }
        )
    return StudySection("s", "closed", "", len(votes), {}, {}, tuple(comparisons), (), ())


def vote(rival: int, prompt: int, outcome: int, person: int = 0, **more: Any) -> VoteRow:
    given: dict[str, Any] = {"criterion": "overall", "origin": "human"} | more
    return VoteRow(
        candidate=0, competitor=rival, outcome=outcome, evaluator=f"e{person}", prompt=prompt, **given
    )


def world(prompts: int = 60) -> tuple[Groups, list[VoteRow]]:
    """Three rivals; people say what the metric's difference is, Same within 0.3, all of them alike."""
    rng = np.random.default_rng(0)
    ours = rng.normal(size=prompts)
    groups: Groups = {("ours", "clip"): group("ours", "clip", ours.tolist())}
    votes = []
    for rival, gap in ((1, 0.1), (2, 0.5), (3, 1.0)):
        differences = gap + rng.normal(0, 1, prompts)
        groups[LABELS[rival], "clip"] = group(LABELS[rival], "clip", (ours - differences).tolist())
        verdicts = np.where(np.abs(differences) <= 0.3, 0, np.sign(differences)).astype(int)
        votes += [
            vote(rival, place, int(verdict), person)
            for place, verdict in enumerate(verdicts)
            for person in range(PEOPLE)
        ]
    for system in LABELS.values():
        values = [-(row.value or 0) for row in groups[system, "clip"]]
        groups[system, "warp_residual"] = group(system, "warp_residual", [*values])
        groups[system, "speed"] = group(system, "speed", [*values])
    return groups, votes


def related(groups: Groups, votes: list[VoteRow]) -> tuple[list[BesideVotes], list[MetricAgreement]]:
    return beside_votes(
        study(votes), votes, groups, NAMES, LABELS, {place: f"p{place}" for place in range(99)}
    )


def test_a_metric_that_says_what_people_say_agrees_in_everything() -> None:
    groups, votes = world()
    rows, found = related(groups, votes)
    assert {item.metric for item in found} == {"clip", "warp_residual"}  # speed does not judge
    for item in found:
        assert item.measures["pairs"] == 3 * 60 * PEOPLE
        assert item.measures["accuracy"] > 0.93  # the held-out bands are near 0.3
        assert item.measures["accuracy_without_ties"] > 0.95
        assert item.human_ceiling == 1
        assert item.log_ratio_correlation == pytest.approx(1)
        assert (item.soft_pairwise_accuracy or 0) > 0.9
    for row in rows:
        assert row.pseudo.band_from == HELD_OUT_BAND
        assert row.pseudo.good + row.pseudo.same + row.pseudo.bad == 60
        assert row.pseudo.ratio == pytest.approx(row.people["ratio"], rel=0.15)
        assert row.people["n"] == 60 * PEOPLE


def test_a_metric_turned_round_is_found_wrong() -> None:
    groups, votes = world()
    for system in LABELS.values():
        groups[system, "clip"] = group(system, "clip", [-(row.value or 0) for row in groups[system, "clip"]])
    _, found = related(groups, votes)
    [clip] = [item for item in found if item.metric == "clip"]
    assert clip.measures["accuracy_without_ties"] < 0.05
    assert clip.log_ratio_correlation == pytest.approx(-1)


def test_only_first_votes_of_people_who_were_not_excluded_count() -> None:
    groups, votes = world(20)
    noise = [
        vote(1, 0, -1, 7, origin="simulated"),
        vote(1, 0, -1, 8, origin="automatic"),
        vote(1, 0, -1, 9, excluded=True),
        vote(1, 0, -1, 0, repeat=True),
        vote(1, 0, -1, 0, criterion="motion"),
    ]
    clean = related(groups, votes)[1]
    rows = beside_votes(
        study(votes), [*votes, *noise], groups, NAMES, LABELS, {n: f"p{n}" for n in range(99)}
    )[1]
    assert rows == clean


def test_a_frozen_video_loses_whatever_its_value() -> None:
    ours, rival = [1.0] * 8, [9.0] * 8
    groups: Groups = {
        ("ours", "clip"): group("ours", "clip", [*ours]),
        ("near", "clip"): group("near", "clip", [*rival]),
        ("ours", "static"): group("ours", "static", [0.0] * 8),
        ("near", "static"): group("near", "static", [1.0] * 8),
    }
    votes = [vote(1, place, 1, person) for place in range(8) for person in range(2)]
    [row], [found] = related(groups, votes)
    assert (row.pseudo.good, row.pseudo.same, row.pseudo.bad) == (8, 0, 0)
    assert row.pseudo.band_from == PAPER_BAND  # one pair has no other to fit on
    assert found.measures["accuracy_without_ties"] == 1


def test_nothing_is_said_without_values_of_both_measured_alike() -> None:
    votes = [vote(1, place, 1) for place in range(4)]
    alone: Groups = {("ours", "clip"): group("ours", "clip", [1.0] * 4)}
    other = alone | {("near", "clip"): group("near", "clip", [1.0] * 4, "another")}
    assert related(alone, votes) == related(other, votes) == ([], [])
    assert "is not known here" in str(unanswered(True, []))
    assert unanswered(False, []) is None
