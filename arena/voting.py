"""Take votes: each stored once however often it is sent, acknowledged only when it is on disk."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from arena.assignment import take_slot
from arena.columns import now_utc
from arena.database import Database
from arena.errors import VoteRefused
from arena.models import Assignment, Enrolment, Vote
from arena.studies import find_enrolment
from arena.tally import OVERALL
from arena.transactions import in_transaction
from arena.upsert import insert_missing

CHOICES = ("left", "same", "right")
LONGEST_COMMENT = 2_000
LONGEST_TOKEN = 128


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """What the page sends when somebody votes."""

    assignment: str
    choice: str
    client_token: str
    criterion: str = OVERALL
    rt_ms: int = 0
    watched_left_ms: int = 0
    watched_right_ms: int = 0
    comment: str = ""

    def __post_init__(self) -> None:
        if self.choice not in CHOICES:
            raise VoteRefused(f"unknown choice {self.choice!r}: expected one of {', '.join(CHOICES)}")
        if not 0 < len(self.client_token) <= LONGEST_TOKEN:
            raise VoteRefused(f"a vote needs a client token of at most {LONGEST_TOKEN} characters")
        if len(self.comment) > LONGEST_COMMENT:
            raise VoteRefused(
                f"a comment may have {LONGEST_COMMENT} characters, this one has {len(self.comment)}"
            )
        if min(self.rt_ms, self.watched_left_ms, self.watched_right_ms) < 0:
            raise VoteRefused("times cannot be negative")
        if max(self.rt_ms, self.watched_left_ms, self.watched_right_ms) > 2**31 - 1:
            raise VoteRefused("times are longer than any session")


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What is stored of a vote; ``new`` is False when it was there already."""

    new: bool
    assignment: str
    choice: str
    created_at: datetime


def submit(
    database: Database,
    *,
    token: str,
    assignment: str,
    choice: str,
    client_token: str,
    criterion: str = OVERALL,
    rt_ms: int = 0,
    watched_left_ms: int = 0,
    watched_right_ms: int = 0,
    comment: str = "",
    now: datetime | None = None,
) -> Receipt:
    """Store a vote and return its receipt once it is committed.

    Sending a vote again, or another one on the same task and criterion, changes nothing and answers with what
    is stored. Times are milliseconds.

    Raises:
        VoteRefused: The token is not valid, the task is not this person's, the study takes no votes, or the
            pair went to somebody else after the lease ended.
    """
    ballot = Ballot(
        assignment=assignment,
        choice=choice,
        client_token=client_token,
        criterion=criterion,
        rt_ms=rt_ms,
        watched_left_ms=watched_left_ms,
        watched_right_ms=watched_right_ms,
        comment=comment,
    )
    moment = now or now_utc()
    return in_transaction(database, lambda session: _submit(session, token, ballot, moment))


def _submit(session: Session, token: str, ballot: Ballot, now: datetime) -> Receipt:
    enrolment = find_enrolment(session, token, now=now)
    task = session.scalar(
        select(Assignment)
        .where(
            Assignment.token == ballot.assignment,
            Assignment.study_id == enrolment.study_id,
            Assignment.evaluator_id == enrolment.evaluator_id,
        )
        .with_for_update()
    )
    if task is None:
        raise VoteRefused("this task was not given to you")
    stored = _stored(session, task, ballot)
    if stored is not None:
        return _receipt(task, stored, new=False)
    _require_open(enrolment, ballot)
    if task.state == "expired" and not take_slot(session, task.pair_id):
        raise VoteRefused("the time for this pair ran out and somebody else has it now")
    new = insert_missing(session, Vote, _values(enrolment, task, ballot, now))
    stored = _stored(session, task, ballot)
    if stored is None:
        raise VoteRefused("this client token was used for another vote already")
    if ballot.criterion == OVERALL:
        task.state = "voted"
    return _receipt(task, stored, new=new)


def _require_open(enrolment: Enrolment, ballot: Ballot) -> None:
    study = enrolment.study
    if study.state not in ("open", "paused"):
        raise VoteRefused(f"this study is {study.state}: it takes no more votes")
    criteria = study.protocol["criteria"]
    if ballot.criterion not in criteria:
        raise VoteRefused(f"unknown criterion {ballot.criterion!r}: expected one of {', '.join(criteria)}")


def _stored(session: Session, task: Assignment, ballot: Ballot) -> Vote | None:
    return session.scalar(
        select(Vote)
        .where(Vote.assignment_id == task.id, Vote.criterion == ballot.criterion)
        .order_by(Vote.rev.desc())
        .limit(1)
    )


def _values(enrolment: Enrolment, task: Assignment, ballot: Ballot, now: datetime) -> dict[str, object]:
    chose_candidate = (ballot.choice == "left") == task.a_on_left
    return {
        "assignment_id": task.id,
        "evaluator_id": enrolment.evaluator_id,
        "origin": enrolment.evaluator.origin,
        "criterion": ballot.criterion,
        "rev": 0,
        "raw_choice": ballot.choice,
        "a_on_left": task.a_on_left,
        "outcome": 0 if ballot.choice == "same" else 1 if chose_candidate else -1,
        "client_token": ballot.client_token,
        "rt_ms": ballot.rt_ms,
        "watched_left_ms": ballot.watched_left_ms,
        "watched_right_ms": ballot.watched_right_ms,
        "comment": ballot.comment,
        "created_at": now,
    }


def _receipt(task: Assignment, vote: Vote, *, new: bool) -> Receipt:
    return Receipt(new=new, assignment=task.token, choice=vote.raw_choice, created_at=vote.created_at)
