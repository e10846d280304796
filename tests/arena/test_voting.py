"""Votes: stored once, kept through kills, refused when they are not this person's to cast."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

import arena
from arena.assignment import Task, lease
from arena.database import Database
from arena.errors import VoteRefused
from arena.models import Assignment, Enrolment, Vote
from arena.studies import close_study, enrol, pause_study
from arena.voting import submit

ROOT = Path(arena.__file__).resolve().parent.parent
VOTER = """
import sys
from arena.assignment import lease
from arena.database import Database
from arena.voting import submit
database, token = Database(sys.argv[1]), sys.argv[2]
while (task := lease(database, token)) is not None:
    print("sending", task.assignment, flush=True)
    submit(database, token=token, assignment=task.assignment, choice="left", client_token=task.left)
    print("stored", task.assignment, task.left, flush=True)
"""


@pytest.fixture
def token(database: Database, make_study) -> str:
    """An evaluator of an open study with eight pairs."""
    make_study(database, prompts=8)
    with database.session() as session:
        return enrol(session, "study").token


def _task(database: Database, token: str) -> Task:
    task = lease(database, token)
    assert task is not None
    return task


def _rows(database: Database) -> list[Vote]:
    with database.reading() as session:
        return list(session.scalars(sa.select(Vote).order_by(Vote.id)))


@pytest.mark.parametrize("choice", ["left", "same", "right"])
def test_the_verdict_follows_from_the_choice_and_the_side(
    database: Database, token: str, choice: str
) -> None:
    for number in range(4):
        task = _task(database, token)
        submit(
            database, token=token, assignment=task.assignment, choice=choice, client_token=f"vote {number}"
        )
    sides = {vote.a_on_left for vote in _rows(database)}
    assert sides == {True, False}
    for vote in _rows(database):
        expected = {"left": 1, "same": 0, "right": -1}[choice] * (1 if vote.a_on_left else -1)
        assert vote.outcome == expected


def test_a_vote_keeps_how_it_was_cast(database: Database, token: str) -> None:
    task = _task(database, token)
    times = {"rt_ms": 1200, "watched_left_ms": 3100, "watched_right_ms": 3200}
    receipt = submit(
        database,
        token=token,
        assignment=task.assignment,
        choice="same",
        client_token="c",
        comment="<b>",
        **times,
    )
    (vote,) = _rows(database)
    assert receipt.new
    assert {name: getattr(vote, name) for name in times} == times
    assert (vote.comment, vote.origin, vote.criterion) == ("<b>", "human", "overall")
    assert vote.created_at == receipt.created_at


def test_sending_again_stores_nothing_and_answers_what_is_stored(database: Database, token: str) -> None:
    task = _task(database, token)
    send = {"token": token, "assignment": task.assignment}
    first = submit(database, **send, choice="left", client_token="c")
    again = submit(database, **send, choice="left", client_token="c")
    other = submit(database, **send, choice="right", client_token="d")
    assert (first.new, again.new, other.new) == (True, False, False)
    assert (again.choice, other.choice) == ("left", "left")
    close_study(database, "study")
    assert not submit(database, **send, choice="left", client_token="c").new
    assert len(_rows(database)) == 1


def test_sixteen_racing_submissions_store_one(database: Database, token: str) -> None:
    task = _task(database, token)

    def send(number: int) -> tuple[bool, str]:
        receipt = submit(
            database,
            token=token,
            assignment=task.assignment,
            choice=("left", "same", "right")[number % 3],
            client_token=f"client {number}",
        )
        return receipt.new, receipt.choice

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(16)))
    assert sum(new for new, _ in answers) == 1
    assert {choice for _, choice in answers} == {_rows(database)[0].raw_choice}
    assert len(_rows(database)) == 1


def test_no_acknowledged_vote_is_lost_when_the_program_is_killed(database: Database, make_study) -> None:
    make_study(database, prompts=30)
    with database.session() as session:
        token = enrol(session, "study").token
    acknowledged: dict[str, str] = {}
    for stop_after in (3, 7):
        voter = subprocess.Popen(
            [sys.executable, "-c", VOTER, database.url, token],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert voter.stdout is not None
        for line in voter.stdout:
            if line.startswith("stored"):
                _, assignment, client_token = line.split()
                acknowledged[assignment] = client_token
                stop_after -= 1
            if stop_after == 0:
                break
        voter.send_signal(signal.SIGKILL)
        voter.wait()
        voter.stdout.close()
    assert len(acknowledged) == 10
    for assignment, client_token in acknowledged.items():
        receipt = submit(
            database, token=token, assignment=assignment, choice="left", client_token=client_token
        )
        assert not receipt.new
    while (task := lease(database, token)) is not None:
        submit(database, token=token, assignment=task.assignment, choice="left", client_token=task.left)
    with database.reading() as session:
        per_task = session.scalars(sa.select(sa.func.count()).select_from(Vote).group_by(Vote.assignment_id))
        assert per_task.all() == [1] * 30


def test_votes_on_tasks_of_others_are_refused(database: Database, token: str) -> None:
    with database.session() as session:
        stranger = enrol(session, "study").token
    task = _task(database, token)
    for who, assignment in ((stranger, task.assignment), (token, "a" * 26)):
        with pytest.raises(VoteRefused, match="not given to you"):
            submit(database, token=who, assignment=assignment, choice="left", client_token="c")
    assert _rows(database) == []


def test_a_task_of_another_study_is_refused(database: Database, token: str, make_study) -> None:
    with database.session() as session:
        study_id = session.scalars(sa.select(Enrolment.study_id)).one()
        other = Assignment.study_id != study_id
        assert session.scalar(sa.select(sa.func.count(Assignment.id)).where(other)) == 0
    task = _task(database, token)
    with pytest.raises(VoteRefused, match="link is not valid"):
        submit(database, token="b" * 26, assignment=task.assignment, choice="left", client_token="c")


def test_a_client_token_serves_one_vote(database: Database, token: str) -> None:
    first = _task(database, token)
    submit(database, token=token, assignment=first.assignment, choice="left", client_token="c")
    second = _task(database, token)
    with pytest.raises(VoteRefused, match="used for another vote"):
        submit(database, token=token, assignment=second.assignment, choice="left", client_token="c")


def test_a_paused_study_still_takes_open_tasks_and_a_closed_one_nothing(
    database: Database, token: str
) -> None:
    task = _task(database, token)
    pause_study(database, "study")
    submit(database, token=token, assignment=task.assignment, choice="left", client_token="c")
    assert len(_rows(database)) == 1


def test_a_closed_study_takes_no_new_vote(database: Database, token: str) -> None:
    task = _task(database, token)
    close_study(database, "study")
    with pytest.raises(VoteRefused, match="takes no more votes"):
        submit(database, token=token, assignment=task.assignment, choice="left", client_token="c")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"choice": "both"}, "unknown choice"),
        ({"criterion": "smell"}, "unknown criterion"),
        ({"client_token": ""}, "client token"),
        ({"client_token": "c" * 129}, "client token"),
        ({"rt_ms": -1}, "negative"),
        ({"rt_ms": 2**40}, "longer than any session"),
        ({"comment": "x" * 2001}, "2000 characters"),
    ],
)
def test_each_malformed_vote_gets_one_sentence(
    database: Database, token: str, wrong: dict[str, object], sentence: str
) -> None:
    task = _task(database, token)
    ballot = {"choice": "left", "client_token": "c", "assignment": task.assignment} | wrong
    with pytest.raises(VoteRefused, match=sentence):
        submit(database, token=token, **ballot)
    assert _rows(database) == []
