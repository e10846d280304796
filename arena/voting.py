"""Take votes: each stored once however often it is sent, acknowledged only when it is on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from arena.assignment import Turn, last_vote, turn_in
from arena.choosing import take_slot
from arena.columns import now_utc
from arena.database import Database
from arena.errors import TooSoon, VoteRefused
from arena.evaluators import find_enrolment
from arena.models import Assignment, Enrolment, Pair, Video, Vote
from arena.protocol import Protocol
from arena.studies import study_protocol
from arena.tally import OVERALL
from arena.transactions import in_transaction
from arena.upsert import insert_missing

CHOICES = ("left", "same", "right")
LONGEST_COMMENT = 2_000
LONGEST_TOKEN = 128
_TASK = (
    select(Assignment, Pair)
    .join(Pair, Pair.id == Assignment.pair_id)
    .where(
        Assignment.token == bindparam("token"),
        Assignment.study_id == bindparam("study"),
        Assignment.evaluator_id == bindparam("evaluator"),
    )
    .with_for_update(of=Assignment)
)
_STORED = select(Vote).where(
    Vote.assignment_id == bindparam("assignment"),
    Vote.criterion == bindparam("criterion"),
    Vote.rev == bindparam("rev"),
)
CLOCK_TOLERANCE = 0.9
"""How much of the time asked for must have been counted: players' clocks are coarse."""


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """What the page sends when somebody votes.

    Attributes:
        assignment: The task's opaque name.
        choice: "left", "same" or "right".
        client_token: Drawn by the page for this vote, so that sending it twice is seen.
        criterion: What ``choice`` is about.
        details: Choices on further criteria, all of them optional.
        revision: 0 for a first vote, n for the n-th time it is given again.
        rt_ms, watched_left_ms, watched_right_ms: Milliseconds from first sight to click, and of each clip
            played.
        comment: The evaluator's own words.
    """

    assignment: str
    choice: str
    client_token: str
    criterion: str = OVERALL
    details: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    rt_ms: int = 0
    watched_left_ms: int = 0
    watched_right_ms: int = 0
    comment: str = ""

    def __post_init__(self) -> None:
        for choice in (self.choice, *self.details.values()):
            if choice not in CHOICES:
                raise VoteRefused(f"unknown choice {choice!r}: expected one of {', '.join(CHOICES)}")
        if not 0 < len(self.client_token) <= LONGEST_TOKEN:
            raise VoteRefused(f"a vote needs a client token of at most {LONGEST_TOKEN} characters")
        if len(self.comment) > LONGEST_COMMENT:
            raise VoteRefused(
                f"a comment may have {LONGEST_COMMENT} characters, this one has {len(self.comment)}"
            )
        if min(self.rt_ms, self.watched_left_ms, self.watched_right_ms, self.revision) < 0:
            raise VoteRefused("times cannot be negative")
        if max(self.rt_ms, self.watched_left_ms, self.watched_right_ms) > 2**31 - 1:
            raise VoteRefused("times are longer than any session")

    def votes(self) -> list[tuple[str, str, str]]:
        """Return criterion, choice and client token of every vote on the ballot."""
        further = [
            (name, choice, f"{self.client_token}:{name}")
            for name, choice in self.details.items()
            if name != self.criterion
        ]
        return [(self.criterion, self.choice, self.client_token), *further]


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What is stored of a vote; ``new`` is False when it was there already.

    Attributes:
        new: Whether this call stored it.
        assignment, choice, created_at: What is stored.
        correct: In training, whether the choice was the expected one; None outside training.
        expected: In training, the choice that was expected; None outside training.
    """

    new: bool
    assignment: str
    choice: str
    created_at: datetime
    correct: bool | None = None
    expected: str | None = None


def submit(database: Database, *, token: str, now: datetime | None = None, **ballot: object) -> Receipt:
    """Store a vote and return its receipt once it is committed.

    Sending a vote again, or another one on the same task, criterion and revision, changes nothing and answers
    with what is stored. A revision stands beside the votes before it; the last one counts.

    Args:
        database: Where the study is.
        token: The evaluator's token.
        now: The present moment, for tests.
        **ballot: The fields of `Ballot`.

    Raises:
        TooSoon: Less time has passed, or less was played, than the protocol asks for.
        VoteRefused: The token is not valid, the task is not this person's, the study takes no votes, or the
            pair went to somebody else after the lease ended.
    """
    cast, moment = Ballot(**ballot), now or now_utc()  # type: ignore[arg-type]  # checked by Ballot itself

    def work(session: Session) -> Receipt:
        return _submit(session, find_enrolment(session, token, now=moment), cast, moment)

    return in_transaction(database, work)


def submit_and_turn(
    session: Session, token: str, ballot: Ballot, *, now: datetime | None = None, ahead: bool = False
) -> tuple[Receipt, Turn]:
    """Store a vote and lease the next task in one transaction, which the caller commits.

    With ``ahead`` the task after that is reserved, as by `arena.assignment.turn_in`.

    Raises:
        VoteRefused: As for `submit`; nothing was stored.
    """
    moment = now or now_utc()
    enrolment = find_enrolment(session, token, now=moment)
    receipt = _submit(session, enrolment, ballot, moment)
    session.flush()
    undo = study_protocol(enrolment.study).undo and receipt.correct is None if receipt.new else None
    return receipt, turn_in(session, enrolment, moment, can_undo=undo, ahead=ahead)


def _submit(session: Session, enrolment: Enrolment, ballot: Ballot, now: datetime) -> Receipt:
    which = {"token": ballot.assignment, "study": enrolment.study_id, "evaluator": enrolment.evaluator_id}
    found = session.execute(_TASK, which).first()
    if found is None:
        raise VoteRefused("this task was not given to you")
    task, pair = found
    stored = _stored(session, task, ballot.criterion, ballot.revision)
    if stored is not None:
        return _receipt(task, pair, stored.raw_choice, stored.created_at, new=False)
    _require_open(enrolment, ballot)
    if ballot.revision:
        _require_last(session, enrolment, task, ballot, now)
    else:
        _require_watched(session, study_protocol(enrolment.study), task, pair, ballot, now)
    counts = pair.kind == "main" and task.repeat_no == 0
    if task.state == "expired" and counts and not take_slot(session, task.pair_id):
        raise VoteRefused("the time for this pair ran out and somebody else has it now")
    for criterion, choice, client_token in ballot.votes():
        values = _values(enrolment, task, ballot, now)
        values |= {"criterion": criterion, "client_token": client_token} | _verdict(task, choice)
        if not insert_missing(session, Vote, values) and criterion == ballot.criterion:
            raise VoteRefused("this client token was used for another vote already")
    if ballot.criterion == OVERALL:
        task.state = "voted"
    return _receipt(task, pair, ballot.choice, now, new=True)


def _require_open(enrolment: Enrolment, ballot: Ballot) -> None:
    study = enrolment.study
    if study.state not in ("open", "paused"):
        raise VoteRefused(f"this study is {study.state}: it takes no more votes")
    protocol = study_protocol(study)
    unknown = [name for name in (ballot.criterion, *ballot.details) if name not in protocol.criteria]
    if unknown:
        raise VoteRefused(f"unknown criterion {unknown[0]!r}: expected one of {', '.join(protocol.criteria)}")
    if ballot.comment and not protocol.comments:
        raise VoteRefused("this study takes no comments")


def _require_last(
    session: Session, enrolment: Enrolment, task: Assignment, ballot: Ballot, now: datetime
) -> None:
    """Refuse a revision of anything but this person's last vote of this session."""
    last = last_vote(session, enrolment, now)
    if last is None or last.assignment_id != task.id or last.rev != ballot.revision - 1:
        raise VoteRefused("only your last vote can be given again")


def _require_watched(
    session: Session, protocol: Protocol, task: Assignment, pair: Pair, ballot: Ballot, now: datetime
) -> None:
    """Refuse a vote on clips that cannot have been watched, by the server's clock and the page's account."""
    if not protocol.min_watch:
        return
    lengths = session.scalars(
        select(Video.duration_ms).where(Video.id.in_((pair.video_a, pair.video_b)))
    ).all()
    least = min(lengths) if protocol.presentation_length == "trim" else max(lengths)
    both = [least] * 2 if len(lengths) < 2 or protocol.presentation_length == "trim" else list(lengths)
    first, second = (CLOCK_TOLERANCE * protocol.min_watch * length for length in both)
    elapsed = (now - task.created_at) / timedelta(milliseconds=1)
    left, right = (first, second) if task.a_on_left else (second, first)
    too_soon = 0 <= elapsed < max(left, right)  # less than 0: the clock was set back, which is nobody's fault
    if too_soon or ballot.watched_left_ms < left or ballot.watched_right_ms < right:
        raise TooSoon("both videos must be watched before a vote")


def _stored(session: Session, task: Assignment, criterion: str, revision: int) -> Vote | None:
    which = {"assignment": task.id, "criterion": criterion, "rev": revision}
    found: Vote | None = session.scalar(_STORED, which)
    return found


def _values(enrolment: Enrolment, task: Assignment, ballot: Ballot, now: datetime) -> dict[str, object]:
    return {
        "assignment_id": task.id,
        "evaluator_id": enrolment.evaluator_id,
        "origin": enrolment.evaluator.origin,
        "rev": ballot.revision,
        "a_on_left": task.a_on_left,
        "rt_ms": ballot.rt_ms,
        "watched_left_ms": ballot.watched_left_ms,
        "watched_right_ms": ballot.watched_right_ms,
        "comment": ballot.comment,
        "created_at": now,
    }


def _verdict(task: Assignment, choice: str) -> dict[str, object]:
    return {"raw_choice": choice, "outcome": _outcome(task, choice)}


def _outcome(task: Assignment, choice: str) -> int:
    """Turn a click into a verdict on the pair's first video: +1 good, 0 same, -1 bad."""
    if choice == "same":
        return 0
    return 1 if (choice == "left") == task.a_on_left else -1


def _receipt(task: Assignment, pair: Pair, choice: str, created_at: datetime, *, new: bool) -> Receipt:
    correct = expected = None
    if pair.kind == "training":
        correct = _outcome(task, choice) == pair.expected
        expected = next(side for side in CHOICES if _outcome(task, side) == pair.expected)
    return Receipt(
        new=new,
        assignment=task.token,
        choice=choice,
        created_at=created_at,
        correct=correct,
        expected=expected,
    )
