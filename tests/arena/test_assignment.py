"""Tasks: balanced, resumable, never more than asked for, also when many ask at once."""

import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

import arena
from arena.assignment import clip, lease
from arena.columns import now_utc
from arena.database import Database
from arena.errors import VoteRefused
from arena.models import Assignment, Pair, Study
from arena.studies import close_study, enrol, pause_study
from arena.voting import submit

ROOT = Path(arena.__file__).resolve().parent.parent
WORKER = """
import sys
from arena.assignment import lease
from arena.database import Database
from arena.voting import submit
database, leases = Database(sys.argv[1]), 0
for token in sys.argv[2:]:
    while (task := lease(database, token)) is not None:
        leases += 1
        submit(database, token=token, assignment=task.assignment, choice="same", client_token=task.left)
print(leases)
"""


def _enrol(database: Database, count: int = 1) -> list[str]:
    with database.session() as session:
        return [enrol(session, "study").token for _ in range(count)]


def _vote(database: Database, token: str, assignment: str, choice: str = "left") -> None:
    submit(database, token=token, assignment=assignment, choice=choice, client_token=f"client {assignment}")


def test_a_task_names_nothing_but_itself(database: Database, make_study) -> None:
    make_study(database)
    (token,) = _enrol(database)
    task = lease(database, token)
    assert task is not None
    assert task.prompt.startswith("prompt ")
    assert (task.seq_no, task.done, task.remaining) == (1, 0, 4)
    assert len({task.assignment, task.left, task.right}) == 3
    assert all(len(name) == 26 for name in (task.assignment, task.left, task.right))


def test_asking_again_returns_the_open_task(database: Database, make_study) -> None:
    make_study(database)
    (token,) = _enrol(database)
    first, second = lease(database, token), lease(database, token)
    assert first is not None
    assert second is not None
    assert (first.assignment, first.left, first.right) == (second.assignment, second.left, second.right)


def test_every_pair_gets_its_votes_and_then_nothing_is_left(database: Database, make_study) -> None:
    make_study(database, prompts=3, competitors=("rival", "other"), votes_per_pair=2)
    tokens = _enrol(database, 3)
    given: Counter[str] = Counter()
    for token in tokens:
        while (task := lease(database, token)) is not None:
            given[token] += 1
            _vote(database, token, task.assignment)
    assert sum(given.values()) == 12
    assert max(given.values()) <= 6
    with database.reading() as session:
        assert session.scalars(sa.select(Pair.slots_left)).all() == [0] * 6


def test_sides_are_balanced_within_evaluator_and_competitor(database: Database, make_study) -> None:
    make_study(database, prompts=10, competitors=("rival", "other"), votes_per_pair=3)
    for token in _enrol(database, 3):
        while (task := lease(database, token)) is not None:
            _vote(database, token, task.assignment)
    with database.reading() as session:
        rows = session.execute(
            sa.select(Assignment.evaluator_id, Pair.system_b, Assignment.a_on_left)
            .join(Pair, Pair.id == Assignment.pair_id)
            .order_by(Assignment.seq_no)
        ).all()
    for key in {(row[0], row[1]) for row in rows}:
        sides = [row[2] for row in rows if (row[0], row[1]) == key]
        assert len(sides) == 10
        assert all(first != second for first, second in zip(sides[::2], sides[1::2], strict=True))


def test_a_lapsed_lease_goes_to_somebody_else_and_back_with_the_same_side(
    database: Database, make_study
) -> None:
    make_study(database, prompts=1, lease_seconds=60)
    first, second = _enrol(database, 2)
    start = now_utc()
    task = lease(database, first, now=start)
    assert task is not None
    assert lease(database, second, now=start + timedelta(seconds=30)) is None
    assert lease(database, second, now=start + timedelta(seconds=61)) is not None
    assert lease(database, first, now=start + timedelta(seconds=62)) is None
    again = lease(database, first, now=start + timedelta(seconds=200))
    assert again is not None
    assert (again.assignment, again.left) == (task.assignment, task.left)


def test_a_late_vote_counts_while_nobody_else_has_the_pair(database: Database, make_study) -> None:
    make_study(database, prompts=1, lease_seconds=60)
    first, second, third = _enrol(database, 3)
    start = now_utc() - timedelta(hours=1)
    late = lease(database, first, now=start)
    later = lease(database, second, now=start + timedelta(seconds=100))
    assert late is not None
    assert later is not None
    assert lease(database, third) is not None  # both earlier leases have lapsed
    with pytest.raises(VoteRefused, match="somebody else has it now"):
        _vote(database, first, late.assignment)
    with database.session() as session:
        session.execute(sa.update(Assignment).values(lease_until=start))
    with pytest.raises(VoteRefused, match="not valid"):
        lease(database, "unknown")
    fourth = _enrol(database)[0]
    pause_study(database, "study")
    with pytest.raises(VoteRefused, match="paused"):
        lease(database, fourth)


def test_a_quota_ends_a_persons_work(database: Database, make_study) -> None:
    make_study(database, prompts=5, quota=2)
    (token,) = _enrol(database)
    for _ in range(2):
        task = lease(database, token)
        assert task is not None
        _vote(database, token, task.assignment)
    assert lease(database, token) is None


def test_closed_studies_and_lapsed_links_give_no_tasks(database: Database, make_study) -> None:
    make_study(database)
    with database.session() as session:
        lapsed = enrol(session, "study", expires_at=now_utc() - timedelta(seconds=1)).token
    (token,) = _enrol(database)
    with pytest.raises(VoteRefused, match="expired"):
        lease(database, lapsed)
    close_study(database, "study")
    with pytest.raises(VoteRefused, match="closed"):
        lease(database, token)


def test_clips_open_only_for_whom_they_were_given_to(database: Database, make_study) -> None:
    make_study(database)
    mine, theirs = _enrol(database, 2)
    task = lease(database, mine)
    assert task is not None
    with database.reading() as session:
        assert len(clip(session, mine, task.left)) == 64
        for token, nonce in ((theirs, task.left), (mine, "a" * 26), (mine, "")):
            with pytest.raises(VoteRefused, match="no such clip"):
                clip(session, token, nonce)


def test_many_programs_fill_every_slot_exactly_once(database: Database, make_study) -> None:
    make_study(database, prompts=50, votes_per_pair=4)
    tokens = _enrol(database, 8)
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, database.url, *tokens[number::4]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for number in range(4)
    ]
    answers = [program.communicate(timeout=120) for program in programs]
    assert all(program.returncode == 0 for program in programs), answers
    assert sum(int(out) for out, _ in answers) == 200
    with database.reading() as session:
        per_pair = session.execute(
            sa.select(Assignment.pair_id, sa.func.count()).group_by(Assignment.pair_id)
        ).all()
        assert [count for _, count in per_pair] == [4] * 50
        assert session.scalar(sa.select(sa.func.sum(Pair.slots_left))) == 0
        assert session.scalars(sa.select(Study.state)).one() == "open"
