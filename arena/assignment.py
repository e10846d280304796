"""Hand out pairs: one open task a person, no pair judged too often, sides balanced and kept."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, TypeVar

from sqlalchemy import bindparam, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from arena.choosing import COUNTS, FRESH, MINE, Choice, Record, choose, give_slot_back, record_of, who
from arena.columns import new_token, now_utc
from arena.database import Database
from arena.errors import VoteRefused
from arena.evaluators import find_enrolment
from arena.models import (
    OPEN_STATES,
    Assignment,
    DegradedCopy,
    Enrolment,
    Pair,
    Presentation,
    Prompt,
    Study,
    Video,
    Vote,
)
from arena.protocol import Protocol
from arena.reservations import RESERVED_PAIR, Reservation, give_back_late, held, reserve, take_reserved
from arena.schedule import Given, Supply, remaining
from arena.stopping import stop_decided
from arena.studies import study_protocol
from arena.tally import OVERALL
from arena.transactions import in_transaction

_Shown = TypeVar("_Shown", Assignment, Reservation)
UNDO_SECONDS = 1_800
"""How long after a vote its person may still think again: about one session."""

_FIRST, _SECOND = aliased(Video), aliased(Video)
_OPEN_TASK = select(Assignment).where(MINE, Assignment.state.in_(OPEN_STATES))
_LAPSED_TASK = select(Assignment).where(
    MINE, Assignment.pair_id == bindparam("pair"), Assignment.repeat_no == bindparam("repeat_no")
)
_FRESH_COUNT = select(func.count()).select_from(
    FRESH.where(Pair.id != func.coalesce(RESERVED_PAIR, -1)).subquery()
)
_CHECKS = (
    select(Pair.kind, func.count(Pair.id))
    .where(Pair.study_id == bindparam("study"), Pair.kind != "main")
    .group_by(Pair.kind)
)
_LAST_VOTE = (
    select(Vote, Pair.kind)
    .join(Assignment, Assignment.id == Vote.assignment_id)
    .join(Pair, Pair.id == Assignment.pair_id)
    .where(MINE, Vote.criterion == OVERALL)
    .order_by(Vote.id.desc())
    .limit(1)
)
_SHOWN = (
    select(Prompt.text, Pair.kind, _FIRST.fps_num, _FIRST.fps_den, _SECOND.fps_num, _SECOND.fps_den)
    .join(Pair, Pair.prompt_id == Prompt.id)
    .join(_FIRST, _FIRST.id == Pair.video_a)
    .join(_SECOND, _SECOND.id == Pair.video_b)
    .where(Pair.id == bindparam("pair"))
)
_LATE = (
    select(Assignment.id, Assignment.pair_id, COUNTS)
    .join(Pair, Pair.id == Assignment.pair_id)
    .where(
        Assignment.study_id == bindparam("study"),
        Assignment.state.in_(OPEN_STATES),
        Assignment.lease_until < bindparam("now"),
    )
    .order_by(Assignment.id)
    .with_for_update(skip_locked=True, of=Assignment)
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an evaluator is shown; nothing in it tells which system, pair or file is behind a side.

    Attributes:
        assignment: Opaque name of the task, to be sent back with the vote.
        prompt: The text both videos were made from.
        left, right: Opaque names of the two clips.
        pace: Seconds from one picture to the next, of the clip with more of them.
        seq_no: How many tasks this person has been given, this one included.
        done: Votes this person has cast.
        remaining: Tasks left for this person, this one included, as things stand.
        training: Whether it is asked for practice, with feedback.
        revision: 0, or how often this person's vote on it would have been given again.
        rest: Whether a break is offered before it.
        can_undo: Whether the vote before it may be given again.
        lease_until: When the pair may go to somebody else.
    """

    assignment: str
    prompt: str
    left: str
    right: str
    pace: float
    seq_no: int
    done: int
    remaining: int
    training: bool
    revision: int
    rest: bool
    can_undo: bool
    lease_until: datetime


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Where an evaluator stands.

    Attributes:
        state: "vote" with a task, "consent" before the first one, "done", or the study's own state when nobody
            can vote on it.
        protocol: What the study lays down.
        task: What to vote on; None unless ``state`` is "vote".
        ahead: What will be shown after it if nothing changes, for its clips to be loaded; None if that is open.
        done: Votes this person has cast.
    """

    state: str
    protocol: Protocol
    task: Task | None = None
    ahead: Task | None = None
    done: int = 0


def lease(database: Database, token: str, *, now: datetime | None = None) -> Task | None:
    """Give an evaluator the task they have open, or a new one; None when nothing is left for them.

    Raises:
        VoteRefused: The token is not valid, the study is not open, or consent is missing.
    """
    found = turn(database, token, now=now)
    if found.state == "consent":
        raise VoteRefused("this study asks for consent before the first vote")
    if found.state not in ("vote", "done"):
        raise VoteRefused(f"this study is {found.state}: there is nothing to vote on now")
    return found.task


def turn(database: Database, token: str, *, now: datetime | None = None) -> Turn:
    """Say where an evaluator stands, leasing a task when there is one for them.

    Raises:
        LinkRefused: The token is not valid.
    """
    return in_transaction(database, lambda session: turn_of(session, token, now=now))


def turn_of(session: Session, token: str, *, now: datetime | None = None, ahead: bool = False) -> Turn:
    """Do what `turn` does inside a transaction that the caller commits; for ``ahead`` see `turn_in`."""
    moment = now or now_utc()
    return turn_in(session, find_enrolment(session, token, now=moment), moment, ahead=ahead)


def turn_in(
    session: Session,
    enrolment: Enrolment,
    now: datetime,
    *,
    can_undo: bool | None = None,
    ahead: bool = False,
) -> Turn:
    """Do what `turn` does for somebody whose token is known to be valid.

    ``can_undo`` says whether their last vote may be given again; None looks it up. With ``ahead`` the task after
    this one is reserved for them and told, too.
    """
    study = enrolment.study
    protocol = study_protocol(study)
    if study.state != "open":
        return Turn(state=study.state, protocol=protocol)
    if protocol.consent and enrolment.consented_at is None:
        return Turn(state="consent", protocol=protocol)
    _lock_person(session, enrolment)
    until = now + timedelta(seconds=protocol.lease_seconds)
    record = record_of(session, enrolment)
    task, record, fresh = (
        _open_task(session, enrolment, record, until) if record.open else (None, record, None)
    )
    if task is None:
        task, record, fresh = _next_task(session, enrolment, protocol, record, until)
    if task is None and give_back_expired(session, study, now):
        task, record, fresh = _next_task(session, enrolment, protocol, record, until)
    if task is None:
        if record.voted.total and enrolment.finished_at is None:
            enrolment.finished_at = now
            stop_decided(session, study, now)
        return Turn(state="done", protocol=protocol, done=record.voted.total)
    kept = held(session, enrolment) if record.open else None
    if kept is not None:
        kept.lease_until = until
    elif ahead:
        kept, fresh = _reserve_next(session, enrolment, protocol, record, until, fresh)
    session.flush()
    if can_undo is None:
        can_undo = last_vote(session, enrolment, now) is not None
    shown, following = _describe(session, enrolment, record, task, kept, fresh=fresh, can_undo=can_undo)
    return Turn(
        state="vote",
        protocol=protocol,
        task=shown,
        ahead=following if ahead else None,
        done=record.voted.total,
    )


def again(database: Database, token: str, *, now: datetime | None = None) -> Task | None:
    """Return the task of a person's last vote, to be voted on once more; None if that may not be.

    The vote stays as it was cast; the new one is a revision beside it.
    """
    moment = now or now_utc()
    with database.reading() as session:
        enrolment = find_enrolment(session, token, now=moment)
        last = last_vote(session, enrolment, moment)
        if last is None or enrolment.study.state != "open":
            return None
        task = session.get_one(Assignment, last.assignment_id)
        record, kept = record_of(session, enrolment), held(session, enrolment)
        shown, _ = _describe(session, enrolment, record, task, kept, can_undo=False)
        done, left = shown.done - 1, shown.remaining + 1
        return replace(shown, revision=last.rev + 1, done=done, remaining=left, rest=False)


def last_vote(session: Session, enrolment: Enrolment, now: datetime) -> Vote | None:
    """Return the vote a person may still undo: the last one, not of training, of this session."""
    if not study_protocol(enrolment.study).undo:
        return None
    found = session.execute(_LAST_VOTE, who(enrolment)).first()
    recent = found is not None and now - found[0].created_at <= timedelta(seconds=UNDO_SECONDS)
    return found[0] if found is not None and recent and found[1] != "training" else None


def _lock_person(session: Session, enrolment: Enrolment) -> None:
    """Let the tabs of one person take turns; SQLite's writers do anyway."""
    if session.get_bind().dialect.name == "sqlite":
        return
    session.execute(
        select(Enrolment.evaluator_id)
        .where(Enrolment.study_id == enrolment.study_id, Enrolment.evaluator_id == enrolment.evaluator_id)
        .with_for_update()
    )


def give_back_expired(session: Session, study: Study, now: datetime) -> int:
    """End the leases and reservations of a study whose time has run out, free their slots; return how many."""
    late = session.execute(_LATE, {"study": study.id, "now": now}).all()
    for assignment_id, pair_id, counted in late:
        session.execute(update(Assignment).where(Assignment.id == assignment_id).values(state="expired"))
        if counted:
            give_slot_back(session, pair_id)
    return len(late) + give_back_late(session, study, now)


_Next = tuple[Assignment | None, Record, int | None]
"""A task, what its person has been given with it and, where that is known, how many real pairs are left."""


def _open_task(session: Session, enrolment: Enrolment, record: Record, until: datetime) -> _Next:
    """Lengthen the lease of the task that waits for this person's vote."""
    task: Assignment | None = session.scalar(_OPEN_TASK, who(enrolment))
    if task is not None:
        task.lease_until = until
    return task, record, None


def _next_task(
    session: Session, enrolment: Enrolment, protocol: Protocol, record: Record, until: datetime
) -> _Next:
    """Make the task that was reserved or is due, None when this person has done all there is for them."""
    reserved = take_reserved(session, enrolment, protocol)
    if reserved is not None:
        kept, names = reserved
        return _assign(session, enrolment, record, kept, names, until), record.plus(kept), None
    choice, fresh = choose(session, enrolment, protocol, record)
    if choice is None:
        return None, record, None
    names = _names(session, enrolment, record, choice)
    return _assign(session, enrolment, record, choice, names, until), record.plus(choice), fresh


def _reserve_next(
    session: Session,
    enrolment: Enrolment,
    protocol: Protocol,
    record: Record,
    until: datetime,
    fresh: int | None,
) -> tuple[Reservation | None, int | None]:
    """Reserve what is due after this person's open task; returns also how many real pairs are left then."""
    choice, left = choose(session, enrolment, protocol, record)
    if choice is None:
        return None, fresh
    names = _names(session, enrolment, record, choice)
    return reserve(session, enrolment, choice, names, until), left if choice.counts else fresh


def _lapsed(session: Session, enrolment: Enrolment, record: Record, choice: Choice) -> Assignment | None:
    """Return this person's task on a pair whose lease ran out, if there is one."""
    if not record.lapsed:
        return None
    which = {"pair": choice.pair, "repeat_no": choice.repeat_no}
    found: Assignment | None = session.scalar(_LAPSED_TASK, who(enrolment) | which)
    return found


def _names(session: Session, enrolment: Enrolment, record: Record, choice: Choice) -> dict[str, Any]:
    """Draw the opaque names of a task and its clips; one that lapsed keeps its own, and its side."""
    task = _lapsed(session, enrolment, record, choice)
    if task is not None:
        drawn = task.a_on_left, task.token, task.nonce_left, task.nonce_right
    else:
        drawn = choice.a_on_left, new_token(), new_token(), new_token()
    return dict(zip(("a_on_left", "token", "nonce_left", "nonce_right"), drawn, strict=True))


def _assign(
    session: Session,
    enrolment: Enrolment,
    record: Record,
    choice: Choice,
    names: dict[str, Any],
    until: datetime,
) -> Assignment:
    """Bring this person's lapsed task on the pair back as it was, or make a new one."""
    task = _lapsed(session, enrolment, record, choice)
    if task is not None:
        task.state, task.lease_until = "leased", until
        return task
    task = Assignment(
        study_id=enrolment.study_id,
        pair_id=choice.pair,
        evaluator_id=enrolment.evaluator_id,
        repeat_no=choice.repeat_no,
        seq_no=record.last_seq + 1,
        **names,
        state="leased",
        lease_until=until,
        created_at=now_utc(),
    )
    session.add(task)
    return task


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a task tells of its pair."""

    prompt: str
    kind: str
    pace: float


def _facts(session: Session, protocol: Protocol, pair_id: int) -> _Facts:
    prompt, kind, *rates = session.execute(_SHOWN, {"pair": pair_id}).one()
    fps = protocol.presentation_fps or max(Fraction(*rates[:2]), Fraction(*rates[2:]))
    return _Facts(prompt=prompt, kind=kind, pace=float(1 / fps))


def _describe(
    session: Session,
    enrolment: Enrolment,
    record: Record,
    task: Assignment,
    kept: Reservation | None,
    *,
    can_undo: bool,
    fresh: int | None = None,
) -> tuple[Task, Task | None]:
    """Say what the page may know of a task and of the one that is reserved after it."""
    protocol = study_protocol(enrolment.study)
    shown, given, voted = _facts(session, protocol, task.pair_id), record.given, record.voted
    following = None
    if kept is not None:
        following = _facts(session, protocol, kept.pair_id)
        given = given.plus("repeat" if kept.repeat_no else following.kind, 1)
    supply = _supply(session, enrolment, protocol, given, fresh)
    left = given.total - voted.total + remaining(protocol, enrolment.evaluator_id, given, supply)
    first = _task(task, shown, protocol, voted, left, task.seq_no, can_undo)
    if kept is None or following is None:
        return first, None
    voted = voted.plus("repeat" if task.repeat_no else shown.kind, 1)
    may_undo = protocol.undo and shown.kind != "training"
    return first, _task(kept, following, protocol, voted, left - 1, record.last_seq + 1, may_undo)


def _task(
    shown: Assignment | Reservation,
    facts: _Facts,
    protocol: Protocol,
    voted: Given,
    left: int,
    seq_no: int,
    can_undo: bool,
) -> Task:
    counted = voted.total - voted.training
    return Task(
        assignment=shown.token,
        prompt=facts.prompt,
        left=shown.nonce_left,
        right=shown.nonce_right,
        pace=facts.pace,
        seq_no=seq_no,
        done=voted.total,
        remaining=left,
        training=facts.kind == "training",
        revision=0,
        rest=bool(protocol.break_every and counted and counted % protocol.break_every == 0),
        can_undo=can_undo,
        lease_until=shown.lease_until,
    )


def _supply(
    session: Session, enrolment: Enrolment, protocol: Protocol, given: Given, fresh: int | None
) -> Supply:
    """Count the pairs there are for this person; ``fresh`` are the real ones left, None to look them up."""
    if fresh is None:
        fresh = session.scalar(_FRESH_COUNT, who(enrolment) | {"kind": "main"}) or 0
    if enrolment.quota is not None:
        fresh = max(0, min(fresh, enrolment.quota - given.main))
    if not (protocol.training_pairs or protocol.gold_share):
        return Supply(training=0, gold=0, main_left=fresh)
    rows = session.execute(_CHECKS, {"study": enrolment.study_id})
    checks = {row[0]: row[1] for row in rows}
    return Supply(training=checks.get("training", 0), gold=checks.get("gold", 0), main_left=fresh)


def clip(session: Session, token: str, nonce: str) -> str:
    """Return the sha256 of the blinded clip behind a name that was given to this evaluator.

    Raises:
        VoteRefused: The token is not valid, or the name was never given to this person.
    """
    enrolment = find_enrolment(session, token)
    task = _with_clip(session, enrolment, Assignment, nonce) or _with_clip(
        session, enrolment, Reservation, nonce
    )
    if task is None:
        raise VoteRefused("there is no such clip")
    pair = session.get_one(Pair, task.pair_id)
    shows_first = (nonce == task.nonce_left) == task.a_on_left
    if pair.video_a == pair.video_b and not shows_first:
        return session.get_one(DegradedCopy, (task.study_id, pair.video_b)).media_sha256
    video_id = pair.video_a if shows_first else pair.video_b
    return session.get_one(Presentation, (task.study_id, video_id)).media_sha256


def _with_clip(session: Session, enrolment: Enrolment, model: type[_Shown], nonce: str) -> _Shown | None:
    mine = model.study_id == enrolment.study_id, model.evaluator_id == enrolment.evaluator_id
    named = or_(model.nonce_left == nonce, model.nonce_right == nonce)
    found: _Shown | None = session.scalar(select(model).where(*mine, named))
    return found
