"""Sequential studies: decided comparisons are asked about no more, on either engine, and say so everywhere."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

import arena
from arena import audit
from arena.assignment import lease, turn
from arena.columns import now_utc
from arena.database import Database
from arena.errors import StudyError
from arena.models import Assignment, AuditEntry, Pair, StudySystem, System
from arena.oversight import sequential_rows
from arena.protocol import Protocol
from arena.report_data import study_report
from arena.sequential import FIRST_LOOK, decide, verdict_of
from arena.stopping import standings
from arena.studies import enrol, get_study, study_status
from arena.voting import submit

ROOT = Path(arena.__file__).resolve().parent.parent
PLAN = {"stopping": "sequential", "estimand": "evaluator", "votes_per_pair": 40}
WORKER = """
import sys
from arena.assignment import lease
from arena.database import Database
from arena.models import Assignment, Pair, System
from arena.voting import submit
database = Database(sys.argv[1])
for token in sys.argv[2:]:
    while (task := lease(database, token)) is not None:
        with database.reading() as session:
            row = session.query(Assignment.a_on_left, System.name).join(Pair, Pair.id == Assignment.pair_id).join(
                System, System.id == Pair.system_b).filter(Assignment.token == task.assignment).one()
        choice = "same" if row.name == "even" else "left" if row.a_on_left else "right"
        submit(database, token=token, assignment=task.assignment, choice=choice, client_token=task.left)
"""


def _person(database: Database, good: dict[str, float], seed: int, most: int = 10_000) -> int:
    """Let somebody in who votes good so often against each competitor, else bad; return the tasks given."""
    with database.session() as session:
        token = enrol(session, "study").token
    generator, given = np.random.default_rng(seed), 0
    while given < most and (task := lease(database, token)) is not None:
        given += 1
        with database.reading() as session:
            on_left, name = session.execute(
                sa.select(Assignment.a_on_left, System.name)
                .join(Pair, Pair.id == Assignment.pair_id)
                .join(System, System.id == Pair.system_b)
                .where(Assignment.token == task.assignment)
            ).one()
        likes = generator.random() < good.get(name, 1.0)
        choice = "left" if likes == on_left else "right"
        submit(database, token=token, assignment=task.assignment, choice=choice, client_token=task.left)
    return given


def _stopped(database: Database) -> set[str]:
    with database.reading() as session:
        return set(study_status(session, "study").stopped)


def test_adaptive_assignment_leaves_a_decided_competitor_alone(database: Database, make_study) -> None:
    make_study(database, prompts=6, competitors=("weak", "even"), assignment="adaptive", **PLAN)
    given = [_person(database, {"weak": 0.95, "even": 0.5}, seed) for seed in range(11)]
    assert _stopped(database) == {"weak"}
    assert given[0] == 12
    assert given[-1] == 6
    stop = given.index(6)
    assert stop >= FIRST_LOOK
    with database.reading() as session:
        study = get_study(session, "study")
        rows = {row.competitor: row for row in standings(session, study)}
        assert (rows["weak"].verdict, rows["weak"].evaluators, rows["even"].verdict) == (
            "better",
            stop,
            "open",
        )
        assert rows["weak"].interval[0] >= 1
        found = study_report(session, "study")["stopping"]
        assert (found["rule"], found["assignment"]) == ("sequential", "adaptive")
        assert [row["verdict"] for row in found["comparisons"]] == ["better", "open"]
        assert "1 of 2 comparisons are decided" in found["sentence"]
        assert "ours is better than weak after" in found["sentence"]
        shown = {row["competitor"]: row["decided"] for row in sequential_rows(session, study)}
        assert shown == {"weak": True, "even": False}
        entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "comparison stopped")).one()
        assert entry.entity == "study/weak"
        assert audit.first_broken(session) is None


def test_balanced_assignment_stops_when_the_last_comparison_is_decided(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database, prompts=6, competitors=("weak", "weaker"), **PLAN)
    given = [_person(database, {"weak": 0.85, "weaker": 1.0}, seed) for seed in range(14)]
    assert set(given) == {0, 12}
    assert _stopped(database) == {"weak", "weaker"}
    with database.reading() as session:
        first, second = sorted(row.evaluators for row in standings(session, get_study(session, "study")))
        assert first < second == given.index(0)
    database.close()


def test_tasks_given_out_before_the_stop_may_still_be_voted_on(database: Database, make_study) -> None:
    make_study(database, prompts=6, assignment="adaptive", **PLAN)
    with database.session() as session:
        slow = enrol(session, "study").token
    task = lease(database, slow)
    assert task is not None
    while not _stopped(database):
        _person(database, {"rival": 1.0}, seed=1)
    again = lease(database, slow)
    assert again is not None
    assert again.assignment == task.assignment
    submit(database, token=slow, assignment=task.assignment, choice="left", client_token="slow")
    found = turn(database, slow)
    assert (found.state, found.done) == ("done", 1)
    with database.session() as session:
        late = enrol(session, "study").token
    assert turn(database, late).state == "done"


def test_many_programs_stop_together_and_overfill_nothing(database: Database, make_study) -> None:
    make_study(database, prompts=8, competitors=("weak", "even"), assignment="adaptive", **PLAN)
    with database.session() as session:
        tokens = [enrol(session, "study").token for _ in range(16)]
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, database.url, *tokens[number::4]],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for number in range(4)
    ]
    errors = [program.communicate(timeout=300)[1] for program in programs]
    assert all(program.returncode == 0 for program in programs), errors
    assert _stopped(database) == {"weak"}
    with database.reading() as session:
        rows = session.execute(
            sa.select(System.name, sa.func.count())
            .join(Pair, Pair.system_b == System.id)
            .join(Assignment, Assignment.pair_id == Pair.id)
            .group_by(System.name)
        )
        votes = {row[0]: row[1] for row in rows}
        slots = session.execute(sa.select(sa.func.sum(Pair.target_votes - Pair.slots_left))).scalar_one()
        assert (
            len(session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "comparison stopped")).all())
            == 1
        )
        assert audit.first_broken(session) is None
    assert votes["even"] == 16 * 8
    assert FIRST_LOOK * 8 <= votes["weak"] < 16 * 8
    assert slots == sum(votes.values())


def test_a_study_with_all_its_votes_is_analysed_whole(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database, prompts=25, stopping="sequential", estimand="evaluator", votes_per_pair=4)
    for seed in range(4):  # fewer than the first look
        _person(database, {"rival": 0.8}, seed)
    with database.reading() as session:
        (row,) = standings(session, get_study(session, "study"))
        assert (row.verdict, row.final, row.level) == ("better", True, pytest.approx(0.975))
        assert "in the whole study" in row.sentence
    assert _stopped(database) == {"rival"}
    database.close()


def test_votes_of_excluded_people_and_of_those_who_are_not_done_are_not_looked_at(
    sqlite_url: str, make_study
) -> None:
    database = Database(sqlite_url)
    make_study(database, prompts=6, repeat_share=0.5, **PLAN)
    for seed in range(4):
        _person(database, {"rival": 1.0}, seed)
    _person(database, {"rival": 1.0}, seed=9, most=3)
    with database.session() as session:
        study = get_study(session, "study")
        (row,) = standings(session, study)
        assert (row.evaluators, row.verdict) == (4, "open")
        session.execute(
            sa.text("UPDATE enrolments SET state='excluded', exclusion_reason='x' WHERE evaluator_id = 1")
        )
        assert standings(session, study)[0].evaluators == 3
    database.close()


def test_a_fixed_study_never_stops_by_itself(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database, prompts=4, estimand="evaluator", votes_per_pair=7)
    given = [_person(database, {"rival": 1.0}, seed) for seed in range(7)]
    assert given == [4] * 7
    with database.reading() as session:
        assert study_report(session, "study")["stopping"]["comparisons"] == []
        assert session.scalars(sa.select(StudySystem.stopped_at)).all() == [None, None]
        assert study_status(session, "study").stopping == "fixed"
    database.close()


def test_equal_systems_are_found_equivalent_where_a_margin_says_so() -> None:
    generator = np.random.default_rng(3)
    evaluators = np.repeat(np.arange(60), 40)
    outcomes = generator.choice([1, 0, -1], evaluators.size, p=[0.3, 0.4, 0.3])
    found = decide(outcomes, evaluators, equivalence=1.3)
    assert found.verdict == "equivalent"
    assert 1 / 1.3 <= found.interval[0] < 1 < found.interval[1] <= 1.3
    assert decide(outcomes, evaluators).verdict == "open"
    assert verdict_of((0.5, 0.9), 1.3) == "worse"
    assert verdict_of((0.8, 1.31), 1.3) == "open"


def test_nobody_decides_before_the_first_look() -> None:
    evaluators = np.repeat(np.arange(FIRST_LOOK), 50)
    early = decide(np.ones(50 * (FIRST_LOOK - 1), int), evaluators[: 50 * (FIRST_LOOK - 1)])
    assert (early.verdict, early.evaluators) == ("open", FIRST_LOOK - 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"assignment": "adaptive"}, "needs stopping 'sequential'"),
        ({"assignment": "greedy"}, "unknown assignment 'greedy'"),
        ({"equivalence": 1.2}, "stops sequentially"),
        ({"equivalence": 0.9, "stopping": "sequential"}, "ratio above 1"),
    ],
)
def test_plans_that_cannot_be_met_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        Protocol(candidate="a", competitors=("b",), **wrong)


def test_a_lapsed_lease_of_a_stopped_competitor_is_not_given_out_again(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database, prompts=4, **PLAN)
    with database.session() as session:
        slow = enrol(session, "study").token
    start = now_utc()
    assert lease(database, slow, now=start) is not None
    with database.session() as session:
        session.execute(
            sa.update(StudySystem).where(StudySystem.role == "competitor").values(stopped_at=start)
        )
    with database.session() as session:
        other = enrol(session, "study").token
    assert lease(database, other, now=start + timedelta(hours=2)) is None
    database.close()
