"""Hand out pairs: one open task a person, no pair judged too often, sides balanced and kept."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, or_, select, update
from sqlalchemy.orm import Session

from arena.columns import new_token, now_utc
from arena.database import Database
from arena.errors import VoteRefused
from arena.models import (
    OPEN_STATES,
    Assignment,
    Enrolment,
    Pair,
    Presentation,
    Prompt,
    Study,
)
from arena.studies import find_enrolment
from arena.transactions import in_transaction

SPENT_STATES = (*OPEN_STATES, "voted", "skipped")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an evaluator is shown; nothing in it tells which system, pair or file is behind a side.

    Attributes:
        assignment: Opaque name of the task, to be sent back with the vote.
        prompt: The text both videos were made from.
        left, right: Opaque names of the two clips.
        seq_no: How many tasks this person has been given, this one included.
        done: Votes this person has cast.
        remaining: Tasks left for this person, this one included, as things stand.
        lease_until: When the pair may go to somebody else.
    """

    assignment: str
    prompt: str
    left: str
    right: str
    seq_no: int
    done: int
    remaining: int
    lease_until: datetime


def lease(database: Database, token: str, *, now: datetime | None = None) -> Task | None:
    """Give an evaluator the task they have open, or a new one; None when nothing is left for them.

    Raises:
        VoteRefused: The token is not valid, or the study is not open.
    """
    moment = now or now_utc()
    return in_transaction(database, lambda session: _lease(session, token, moment))


def _lease(session: Session, token: str, now: datetime) -> Task | None:
    enrolment = find_enrolment(session, token, now=now)
    study = enrolment.study
    _lock_person(session, enrolment)
    if study.state != "open":
        raise VoteRefused(f"this study is {study.state}: there is nothing to vote on now")
    give_back_expired(session, study, now)
    until = now + timedelta(seconds=study.protocol["lease_seconds"])
    task: Assignment | None = session.scalar(_own(enrolment).where(Assignment.state.in_(OPEN_STATES)))
    if task is not None:
        task.lease_until = until
    elif enrolment.quota is None or _done(session, enrolment) < enrolment.quota:
        task = _take_slot(session, study, enrolment, until)
    session.flush()
    return None if task is None else _describe(session, study, enrolment, task)


def _lock_person(session: Session, enrolment: Enrolment) -> None:
    """Let the tabs of one person take turns; SQLite's writers do anyway."""
    session.execute(
        select(Enrolment.evaluator_id)
        .where(Enrolment.study_id == enrolment.study_id, Enrolment.evaluator_id == enrolment.evaluator_id)
        .with_for_update()
    )


def give_back_expired(session: Session, study: Study, now: datetime) -> int:
    """End the leases of a study whose time has run out and free their slots; return how many."""
    late = session.execute(
        select(Assignment.id, Assignment.pair_id)
        .where(
            Assignment.study_id == study.id,
            Assignment.state.in_(OPEN_STATES),
            Assignment.lease_until < now,
        )
        .order_by(Assignment.id)
        .with_for_update(skip_locked=True)
    ).all()
    for assignment_id, pair_id in late:
        session.execute(update(Assignment).where(Assignment.id == assignment_id).values(state="expired"))
        session.execute(update(Pair).where(Pair.id == pair_id).values(slots_left=Pair.slots_left + 1))
    return len(late)


def _own(enrolment: Enrolment) -> Select[Any]:
    return select(Assignment).where(*_of(enrolment))


def _of(enrolment: Enrolment) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return Assignment.study_id == enrolment.study_id, Assignment.evaluator_id == enrolment.evaluator_id


def _done(session: Session, enrolment: Enrolment) -> int:
    voted = _own(enrolment).where(Assignment.state == "voted")
    return session.scalar(select(func.count()).select_from(voted.subquery())) or 0


def _eligible(enrolment: Enrolment) -> "Select[int, int, int]":
    """Select id, free slots and competitor of pairs this person has not judged; lapsed tasks may return."""
    spent = exists().where(
        Assignment.pair_id == Pair.id,
        Assignment.evaluator_id == enrolment.evaluator_id,
        Assignment.state.in_(SPENT_STATES),
    )
    query = select(Pair.id, Pair.slots_left, Pair.system_b)
    return query.where(Pair.study_id == enrolment.study_id, Pair.slots_left > 0, ~spent)


def _take_slot(session: Session, study: Study, enrolment: Enrolment, until: datetime) -> Assignment | None:
    """Take a slot of the pair that needs votes most, in an order of this person's own."""
    pairs = list(session.execute(_eligible(enrolment)))
    pairs.sort(key=lambda pair: (-pair[1], _keyed(study.seed, enrolment.evaluator_id, "order", pair[0])))
    for pair_id, _, competitor in pairs:
        if take_slot(session, pair_id):
            return _assign(session, study, enrolment, (pair_id, competitor), until)
    return None


def take_slot(session: Session, pair_id: int) -> bool:
    """Take one of a pair's free slots; False when others took the last one meanwhile."""
    taken = session.execute(
        update(Pair)
        .where(Pair.id == pair_id, Pair.slots_left > 0)
        .values(slots_left=Pair.slots_left - 1)
        .returning(Pair.id)
        .execution_options(synchronize_session=False)
    )
    return taken.first() is not None


def _assign(
    session: Session, study: Study, enrolment: Enrolment, pair: tuple[int, int], until: datetime
) -> Assignment:
    """Bring this person's expired task on the pair back, or make a new one."""
    pair_id, competitor = pair
    task: Assignment | None = session.scalar(_own(enrolment).where(Assignment.pair_id == pair_id))
    if task is not None:
        task.state, task.lease_until = "leased", until
        return task
    given = session.scalar(select(func.max(Assignment.seq_no)).where(*_of(enrolment))) or 0
    task = Assignment(
        token=new_token(),
        study_id=study.id,
        pair_id=pair_id,
        evaluator_id=enrolment.evaluator_id,
        repeat_no=0,
        seq_no=given + 1,
        a_on_left=_candidate_left(session, study, enrolment, competitor),
        state="leased",
        lease_until=until,
        nonce_left=new_token(),
        nonce_right=new_token(),
        created_at=now_utc(),
    )
    session.add(task)
    return task


def _candidate_left(session: Session, study: Study, enrolment: Enrolment, competitor: int) -> bool:
    """Choose the candidate's side by permuted blocks of two within evaluator and competitor."""
    before = session.scalar(
        select(func.count(Assignment.id))
        .join(Pair, Pair.id == Assignment.pair_id)
        .where(*_of(enrolment), Pair.system_b == competitor)
    )
    block, place = divmod(before or 0, 2)
    first = _keyed(study.seed, enrolment.evaluator_id, "side", competitor, block)[0] & 1
    return bool(first ^ place)


def _keyed(*key: object) -> bytes:
    """Return pseudo-random bytes that depend on the key alone."""
    return hashlib.blake2b(repr(key).encode("utf-8"), digest_size=8).digest()


def _describe(session: Session, study: Study, enrolment: Enrolment, task: Assignment) -> Task:
    prompt = session.scalars(
        select(Prompt.text).join(Pair, Pair.prompt_id == Prompt.id).where(Pair.id == task.pair_id)
    ).one()
    done = _done(session, enrolment)
    left = session.scalar(select(func.count()).select_from(_eligible(enrolment).subquery())) or 0
    remaining = left + 1
    if enrolment.quota is not None:
        remaining = min(remaining, enrolment.quota - done)
    return Task(
        assignment=task.token,
        prompt=prompt,
        left=task.nonce_left,
        right=task.nonce_right,
        seq_no=task.seq_no,
        done=done,
        remaining=remaining,
        lease_until=task.lease_until,
    )


def clip(session: Session, token: str, nonce: str) -> str:
    """Return the sha256 of the blinded clip behind a name that was given to this evaluator.

    Raises:
        VoteRefused: The token is not valid, or the name was never given to this person.
    """
    enrolment = find_enrolment(session, token)
    task = session.scalar(
        _own(enrolment).where(or_(Assignment.nonce_left == nonce, Assignment.nonce_right == nonce))
    )
    if task is None:
        raise VoteRefused("there is no such clip")
    pair = session.get_one(Pair, task.pair_id)
    shows_candidate = (nonce == task.nonce_left) == task.a_on_left
    video_id = pair.video_a if shows_candidate else pair.video_b
    return session.get_one(Presentation, (task.study_id, video_id)).media_sha256
