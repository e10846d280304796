"""What the organiser is told: conduct of evaluators, balance, and results only when they may be seen."""

import numpy as np
import pytest
import sqlalchemy as sa

from arena.assignment import lease
from arena.database import Database
from arena.models import Assignment, Enrolment, Vote
from arena.oversight import (
    Cast,
    balance,
    comments,
    conduct_of,
    participants,
    results_hidden,
    sequential_rows,
)
from arena.studies import close_study, enrol, get_study
from arena.voting import submit


def _cast(number: int, choice: str, outcome: int, **changes: object) -> Cast:
    values = {"decision_ms": 1500, "expected": None, "kind": "main", "repeat": False}
    return Cast(pair=number, choice=choice, outcome=outcome, **(values | changes))


def _simulated(kind: str, generator: np.random.Generator, votes: int = 100) -> list[Cast]:
    """Draw the votes of an attentive person or of one who cheats in the named way; one in ten is gold."""
    cast = []
    for number in range(votes):
        left = bool(generator.integers(2))
        gold = number % 10 == 9
        if kind == "attentive":
            outcome = 1 if generator.random() < (0.97 if gold else 0.6) else -1
        else:
            outcome = 1 if generator.random() < 0.5 else -1
        choice = "left" if (outcome == 1) == left else "right"
        if kind == "straight-liner":
            choice, outcome = "left", 1 if left else -1
        decision = generator.gamma(4, 400) if kind != "speeder" else generator.gamma(2, 50)
        checks = {"kind": "gold", "expected": 1} if gold else {}
        cast.append(_cast(number, choice, outcome, decision_ms=int(decision), **checks))
    return cast


def test_cheats_are_flagged_and_attentive_people_are_not() -> None:
    generator = np.random.default_rng(7)
    kinds = ["attentive"] * 200 + ["random", "straight-liner", "speeder"] * 50
    flagged = [bool(conduct_of(_simulated(kind, generator)).flags) for kind in kinds]
    specificity = 1 - np.mean(flagged[:200])
    sensitivity = np.mean(flagged[200:])
    assert specificity >= 0.97
    assert sensitivity >= 0.85


def test_conduct_counts_gold_repeats_and_runs() -> None:
    votes = [
        _cast(1, "left", 1),
        _cast(2, "left", -1),
        _cast(3, "same", 0),
        _cast(1, "right", 1, repeat=True),
        _cast(2, "left", 1, repeat=True),
        _cast(9, "left", 1, kind="gold", expected=1),
        _cast(10, "left", -1, kind="gold", expected=1),
        _cast(11, "left", 1, kind="training", expected=1),
    ]
    conduct = conduct_of(votes)
    assert (conduct.votes, conduct.gold_passed, conduct.gold) == (3, 1, 2)
    assert (conduct.repeats_kept, conduct.repeats, conduct.longest_run) == (1, 2, 3)
    assert (conduct.left, conduct.flags) == (pytest.approx(5 / 7), ())


def test_nobody_is_judged_without_votes() -> None:
    conduct = conduct_of([])
    assert (conduct.votes, conduct.median_decision_ms, conduct.left, conduct.flags) == (0, None, None, ())


def _everybody_votes(database: Database, people: int, **protocol: object) -> None:
    with database.session() as session:
        tokens = [enrol(session, "study").token for _ in range(people)]
    for token in tokens:
        while (task := lease(database, token)) is not None:
            submit(
                database,
                token=token,
                assignment=task.assignment,
                choice="left",
                client_token=task.left,
                rt_ms=2000,
                comment="<img src=x onerror=alert(1)>" if task.seq_no == 1 else "",
            )


def test_a_study_is_seen_whole(database: Database, make_study) -> None:
    make_study(database, prompts=6, competitors=("rival", "other"), votes_per_pair=2, gold_share=0.25)
    _everybody_votes(database, 2)
    with database.reading() as session:
        study = get_study(session, "study")
        found = participants(session, study)
        assert [person.conduct.votes for person in found] == [12, 12]
        assert [person.conduct.gold for person in found] == [3, 3]
        assert found[0].conduct.median_decision_ms == 1400
        rows = balance(session, study)
        assert {row.competitor for row in rows} == {"rival", "other"}
        assert [(row.votes, row.candidate_left, row.least, row.most) for row in rows] == [(12, 0.5, 2, 2)] * 2
        assert len(comments(session, study)) == 2


def test_balance_of_an_untouched_study_has_no_shares(database: Database, make_study) -> None:
    make_study(database, prompts=2)
    with database.reading() as session:
        (row,) = balance(session, get_study(session, "study"))
    assert (row.votes, row.candidate_left, row.least, row.most) == (0, None, 0, 0)


@pytest.mark.parametrize(("stopping", "hidden"), [("fixed", True), ("sequential", False)])
def test_results_wait_unless_they_hold_at_every_look(
    sqlite_url: str, make_study, stopping: str, hidden: bool
) -> None:
    database = Database(sqlite_url)
    make_study(database, stopping=stopping)
    with database.reading() as session:
        assert results_hidden(get_study(session, "study")) is hidden
    close_study(database, "study")
    with database.reading() as session:
        assert not results_hidden(get_study(session, "study"))
    database.close()


def test_the_sequence_counts_whoever_has_finished(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database, prompts=6, votes_per_pair=3, stopping="sequential")
    _everybody_votes(database, 3)
    with database.session() as session:
        study = get_study(session, "study")
        (row,) = sequential_rows(session, study)
        assert (row["competitor"], row["evaluators"], row["ratio"]) == ("rival", 3, pytest.approx(1.0))
        assert row["lower"] < 1 < row["upper"]
        assert session.scalar(sa.select(sa.func.count(Vote.id))) == 18
        session.execute(sa.update(Enrolment).values(finished_at=None))
        assert sequential_rows(session, study) == []
    database.close()


def test_whoever_clicks_without_looking_is_flagged_among_those_who_look(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database, prompts=40, votes_per_pair=6)
    with database.session() as session:
        tokens = [enrol(session, "study", pseudonym=f"person {number}").token for number in range(6)]
    for number, token in enumerate(tokens):
        while (task := lease(database, token)) is not None:
            with database.reading() as session:
                on_left = session.scalar(
                    sa.select(Assignment.a_on_left).where(Assignment.token == task.assignment)
                )
            looks = "left" if on_left else "right"
            choice = ("left", "right")[task.seq_no // 2 % 2] if number == 0 else looks
            submit(
                database,
                token=token,
                assignment=task.assignment,
                choice=choice,
                client_token=task.left,
                rt_ms=3000,
            )
    with database.reading() as session:
        found = participants(session, get_study(session, "study"))
    assert [bool(person.conduct.flags) for person in found] == [True] + [False] * 5
    assert "uninformative: answers do not follow the videos" in found[0].conduct.flags[0]
    assert found[0].reliability is not None
    assert found[0].reliability < 0.5 < min(person.reliability or 0 for person in found[1:])
    database.close()
