"""Hand out pairs: one open task a person, no pair judged too often, sides balanced and kept."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Row, and_, bindparam, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

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
    StudySystem,
    Vote,
)
from arena.protocol import Protocol
from arena.schedule import REPEAT_AFTER, Given, Supply, keyed, next_kinds, remaining
from arena.stopping import stop_decided
from arena.studies import study_protocol
from arena.tally import OVERALL
from arena.transactions import in_transaction

SPENT_STATES = (*OPEN_STATES, "voted", "skipped")
UNDO_SECONDS = 1_800
"""How long after a vote its person may still think again: about one session."""

# Statements are built once: building them anew costs more than running them. They are about one person.
_MINE = and_(Assignment.study_id == bindparam("study"), Assignment.evaluator_id == bindparam("evaluator"))
_COUNTS = and_(Pair.kind == "main", Assignment.repeat_no == 0)
_OPEN_TASK = select(Assignment).where(_MINE, Assignment.state.in_(OPEN_STATES))
_LAPSED_TASK = select(Assignment).where(
    _MINE, Assignment.pair_id == bindparam("pair"), Assignment.repeat_no == bindparam("repeat_no")
)
_GIVEN = (
    select(
        Pair.kind,
        Pair.system_b,
        Assignment.repeat_no,
        Assignment.state,
        func.count(Assignment.id),
        func.max(Assignment.seq_no),
    )
    .join(Pair, Pair.id == Assignment.pair_id)
    .where(_MINE)
    .group_by(Pair.kind, Pair.system_b, Assignment.repeat_no, Assignment.state)
)
_ASKED = exists().where(
    StudySystem.study_id == Pair.study_id,
    StudySystem.system_id == Pair.system_b,
    StudySystem.stopped_at.is_(None),
)
_FRESH = select(Pair.id, Pair.slots_left, Pair.system_b).where(
    Pair.study_id == bindparam("study"),
    Pair.kind == bindparam("kind"),
    or_(Pair.kind != "main", and_(Pair.slots_left > 0, _ASKED)),
    ~exists().where(
        Assignment.pair_id == Pair.id,
        Assignment.evaluator_id == bindparam("evaluator"),
        Assignment.state.in_(SPENT_STATES),
    ),
)
_ANY_ASKED = select(
    exists().where(
        StudySystem.study_id == bindparam("study"),
        StudySystem.role == "competitor",
        StudySystem.stopped_at.is_(None),
    )
)
_FRESH_COUNT = select(func.count()).select_from(_FRESH.subquery())
_CHECKS = (
    select(Pair.kind, func.count(Pair.id))
    .where(Pair.study_id == bindparam("study"), Pair.kind != "main")
    .group_by(Pair.kind)
)
_LAST_VOTE = (
    select(Vote, Pair.kind)
    .join(Assignment, Assignment.id == Vote.assignment_id)
    .join(Pair, Pair.id == Assignment.pair_id)
    .where(_MINE, Vote.criterion == OVERALL)
    .order_by(Vote.id.desc())
    .limit(1)
)
_PROMPT = (
    select(Prompt.text, Pair.kind).join(Pair, Pair.prompt_id == Prompt.id).where(Pair.id == bindparam("pair"))
)
_LATE = (
    select(Assignment.id, Assignment.pair_id, _COUNTS)
    .join(Pair, Pair.id == Assignment.pair_id)
    .where(
        Assignment.study_id == bindparam("study"),
        Assignment.state.in_(OPEN_STATES),
        Assignment.lease_until < bindparam("now"),
    )
    .order_by(Assignment.id)
    .with_for_update(skip_locked=True, of=Assignment)
)
_TAKE_SLOT = (
    update(Pair)
    .where(Pair.id == bindparam("pair"), Pair.slots_left > 0)
    .values(slots_left=Pair.slots_left - 1)
    .returning(Pair.id)
    .execution_options(synchronize_session=False)
)


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
        done: Votes this person has cast.
    """

    state: str
    protocol: Protocol
    task: Task | None = None
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


def turn_of(session: Session, token: str, *, now: datetime | None = None) -> Turn:
    """Do what `turn` does inside a transaction that the caller commits."""
    moment = now or now_utc()
    return turn_in(session, find_enrolment(session, token, now=moment), moment)


def turn_in(session: Session, enrolment: Enrolment, now: datetime, *, can_undo: bool | None = None) -> Turn:
    """Do what `turn` does for somebody whose token is known to be valid.

    ``can_undo`` says whether their last vote may be given again; None looks it up.
    """
    study = enrolment.study
    protocol = study_protocol(study)
    if study.state != "open":
        return Turn(state=study.state, protocol=protocol)
    if protocol.consent and enrolment.consented_at is None:
        return Turn(state="consent", protocol=protocol)
    _lock_person(session, enrolment)
    until = now + timedelta(seconds=protocol.lease_seconds)
    record = _record_of(session, enrolment)
    given, fresh = record.given, None
    task: Assignment | None = session.scalar(_OPEN_TASK, _who(enrolment)) if record.open else None
    if task is not None:
        task.lease_until = until
    else:
        task, given, fresh = _next_task(session, enrolment, protocol, record, until)
    if task is None and give_back_expired(session, study, now):
        task, given, fresh = _next_task(session, enrolment, protocol, record, until)
    if task is None:
        if record.voted.total and enrolment.finished_at is None:
            enrolment.finished_at = now
            stop_decided(session, study, now)
        return Turn(state="done", protocol=protocol, done=record.voted.total)
    session.flush()
    if can_undo is None:
        can_undo = last_vote(session, enrolment, now) is not None
    shown = _describe(session, enrolment, task, (given, record.voted), fresh=fresh, can_undo=can_undo)
    return Turn(state="vote", protocol=protocol, task=shown, done=record.voted.total)


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
        record = _record_of(session, enrolment)
        counts = record.given, record.voted
        return _describe(session, enrolment, task, counts, can_undo=False, revision=last.rev + 1)


def last_vote(session: Session, enrolment: Enrolment, now: datetime) -> Vote | None:
    """Return the vote a person may still undo: the last one, not of training, of this session."""
    if not study_protocol(enrolment.study).undo:
        return None
    found = session.execute(_LAST_VOTE, _who(enrolment)).first()
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
    """End the leases of a study whose time has run out and free their slots; return how many."""
    late = session.execute(_LATE, {"study": study.id, "now": now}).all()
    for assignment_id, pair_id, counted in late:
        session.execute(update(Assignment).where(Assignment.id == assignment_id).values(state="expired"))
        if counted:
            session.execute(update(Pair).where(Pair.id == pair_id).values(slots_left=Pair.slots_left + 1))
    return len(late)


def _who(enrolment: Enrolment) -> dict[str, int]:
    """Return the parameters of a statement about one person in one study."""
    return {"study": enrolment.study_id, "evaluator": enrolment.evaluator_id}


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What one person has been given so far.

    Attributes:
        given, voted: Tasks by kind, and those voted on.
        last_seq: Number of the last task.
        shown: Tasks by what their sides are balanced within: a competitor, or a kind of check.
        repeats: Repeated tasks.
        lapsed: Whether a lease of theirs ever ran out.
        open: Whether a task waits for their vote.
    """

    given: Given
    voted: Given
    last_seq: int
    shown: Mapping[int | str, int]
    repeats: int
    lapsed: bool
    open: bool


def _record_of(session: Session, enrolment: Enrolment) -> _Record:
    rows = session.execute(_GIVEN, _who(enrolment)).all()
    given, voted, shown = Given(), Given(), Counter[int | str]()
    for kind, system, repeat_no, state, count, _ in rows:
        name = "repeat" if repeat_no else kind
        given = given.plus(name, count) if state in SPENT_STATES else given
        voted = voted.plus(name, count) if state == "voted" else voted
        if not repeat_no:
            shown[system if kind == "main" else kind] += count
    return _Record(
        given=given,
        voted=voted,
        last_seq=max((row[5] for row in rows), default=0),
        shown=shown,
        repeats=sum(row[4] for row in rows if row[2]),
        lapsed=any(row[3] == "expired" for row in rows),
        open=any(row[3] in OPEN_STATES for row in rows),
    )


def _next_task(
    session: Session, enrolment: Enrolment, protocol: Protocol, record: _Record, until: datetime
) -> tuple[Assignment | None, Given, int | None]:
    """Make the task that is due, None when this person has done everything there is for them.

    Returns also what they have been given with it and, where that is known, how many real pairs are left.
    """
    given = record.given
    if protocol.stopping == "sequential" and not session.scalar(_ANY_ASKED, _who(enrolment)):
        return None, given, None
    for kind in next_kinds(protocol, enrolment.evaluator_id, given):
        if kind == "main" and enrolment.quota is not None and given.main >= enrolment.quota:
            break
        fresh = None
        if kind == "repeat":
            task = _repeat(session, enrolment, record, until)
        else:
            pairs = list(session.execute(_FRESH, _who(enrolment) | {"kind": kind}))
            task = _take(session, enrolment, record, kind, pairs, until)
            fresh = len(pairs) - 1 if kind == "main" else None
        if task is not None:
            return task, given.plus(kind, 1), fresh
    return None, given, None


def _take(
    session: Session,
    enrolment: Enrolment,
    record: _Record,
    kind: str,
    pairs: "list[Row[int, int, int]]",
    until: datetime,
) -> Assignment | None:
    """Take the pair that needs votes most, in an order of this person's own."""
    key = enrolment.study.seed, enrolment.evaluator_id
    pairs.sort(key=lambda pair: (-pair[1], keyed(*key, "order", pair[0])))
    for pair_id, _, second in pairs:
        if kind != "main" or take_slot(session, pair_id):
            group = second if kind == "main" else kind
            block, place = divmod(record.shown.get(group, 0), 2)
            side = bool((keyed(*key, "side", group, block)[0] & 1) ^ place)
            return _assign(session, enrolment, record, pair_id, side, until)
    return None


def _repeat(session: Session, enrolment: Enrolment, record: _Record, until: datetime) -> Assignment | None:
    """Ask a pair again that was voted on a while ago, every other time with exchanged sides."""
    second = aliased(Assignment)
    asked_again = exists().where(
        second.pair_id == Assignment.pair_id,
        second.evaluator_id == Assignment.evaluator_id,
        second.repeat_no > 0,
        second.state.in_(SPENT_STATES),
    )
    query = (
        select(Assignment)
        .join(Pair, Pair.id == Assignment.pair_id)
        .where(_MINE, _COUNTS, Assignment.state == "voted", ~asked_again)
        .order_by(Assignment.seq_no.desc())
        .offset(REPEAT_AFTER)
    )
    voted = session.scalars(query, _who(enrolment)).all()
    if not voted:
        return None
    key = enrolment.study.seed, enrolment.evaluator_id, "again"
    first = min(voted, key=lambda task: keyed(*key, task.pair_id))
    side = first.a_on_left ^ (record.repeats % 2 == 0)
    return _assign(session, enrolment, record, first.pair_id, side, until, repeat_no=1)


def take_slot(session: Session, pair_id: int) -> bool:
    """Take one of a pair's free slots; False when others took the last one meanwhile."""
    taken = session.execute(_TAKE_SLOT, {"pair": pair_id})
    return taken.first() is not None


def _assign(
    session: Session,
    enrolment: Enrolment,
    record: _Record,
    pair_id: int,
    a_on_left: bool,
    until: datetime,
    *,
    repeat_no: int = 0,
) -> Assignment:
    """Bring this person's expired task on the pair back as it was, or make a new one."""
    if record.lapsed:
        which = {"pair": pair_id, "repeat_no": repeat_no}
        task: Assignment | None = session.scalar(_LAPSED_TASK, _who(enrolment) | which)
        if task is not None:
            task.state, task.lease_until = "leased", until
            return task
    task = Assignment(
        token=new_token(),
        study_id=enrolment.study_id,
        pair_id=pair_id,
        evaluator_id=enrolment.evaluator_id,
        repeat_no=repeat_no,
        seq_no=record.last_seq + 1,
        a_on_left=a_on_left,
        state="leased",
        lease_until=until,
        nonce_left=new_token(),
        nonce_right=new_token(),
        created_at=now_utc(),
    )
    session.add(task)
    return task


def _describe(
    session: Session,
    enrolment: Enrolment,
    task: Assignment,
    counts: tuple[Given, Given],
    *,
    can_undo: bool,
    fresh: int | None = None,
    revision: int = 0,
) -> Task:
    protocol = study_protocol(enrolment.study)
    given, voted = counts
    prompt, kind = session.execute(_PROMPT, {"pair": task.pair_id}).one()
    supply = _supply(session, enrolment, protocol, given, fresh)
    later = remaining(protocol, enrolment.evaluator_id, given, supply)
    reopened = int(revision > 0)
    counted = voted.total - voted.training
    return Task(
        assignment=task.token,
        prompt=prompt,
        left=task.nonce_left,
        right=task.nonce_right,
        seq_no=task.seq_no,
        done=voted.total - reopened,
        remaining=given.total - voted.total + reopened + later,
        training=kind == "training",
        revision=revision,
        rest=bool(protocol.break_every and not revision and counted and counted % protocol.break_every == 0),
        can_undo=can_undo,
        lease_until=task.lease_until,
    )


def _supply(
    session: Session, enrolment: Enrolment, protocol: Protocol, given: Given, fresh: int | None
) -> Supply:
    """Count the pairs there are for this person; ``fresh`` are the real ones left, None to look them up."""
    if fresh is None:
        fresh = session.scalar(_FRESH_COUNT, _who(enrolment) | {"kind": "main"}) or 0
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
    given = or_(Assignment.nonce_left == nonce, Assignment.nonce_right == nonce)
    task = session.scalar(select(Assignment).where(_MINE, given), _who(enrolment))
    if task is None:
        raise VoteRefused("there is no such clip")
    pair = session.get_one(Pair, task.pair_id)
    shows_first = (nonce == task.nonce_left) == task.a_on_left
    if pair.video_a == pair.video_b and not shows_first:
        return session.get_one(DegradedCopy, (task.study_id, pair.video_b)).media_sha256
    video_id = pair.video_a if shows_first else pair.video_b
    return session.get_one(Presentation, (task.study_id, video_id)).media_sha256
