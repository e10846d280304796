"""Choose what a person is asked next: the kind that is due, the pair that needs votes most, a balanced side."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlalchemy import and_, bindparam, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from arena.models import OPEN_STATES, Assignment, Enrolment, Pair, StudySystem
from arena.protocol import Protocol
from arena.schedule import REPEAT_AFTER, Given, keyed, next_kinds

SPENT_STATES = (*OPEN_STATES, "voted", "skipped")

# Statements are built once: building them anew costs more than running them. They are about one person.
MINE = and_(Assignment.study_id == bindparam("study"), Assignment.evaluator_id == bindparam("evaluator"))
COUNTS = and_(Pair.kind == "main", Assignment.repeat_no == 0)
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
    .where(MINE)
    .group_by(Pair.kind, Pair.system_b, Assignment.repeat_no, Assignment.state)
)
_ASKED = exists().where(
    StudySystem.study_id == Pair.study_id,
    StudySystem.system_id == Pair.system_b,
    StudySystem.stopped_at.is_(None),
)
FRESH = select(Pair.id, Pair.slots_left, Pair.system_b).where(
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
_PAIR = select(Pair.kind, Pair.system_b, _ASKED).where(Pair.id == bindparam("pair"))
_TAKE_SLOT = (
    update(Pair)
    .where(Pair.id == bindparam("pair"), Pair.slots_left > 0)
    .values(slots_left=Pair.slots_left - 1)
    .returning(Pair.id)
    .execution_options(synchronize_session=False)
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A pair to be shown to somebody; where its votes are counted, one of its slots is taken.

    Attributes:
        pair: Its identifier.
        kind: "main", "training" or "gold".
        system: The competitor.
        repeat_no: 1 if this person has voted on the pair before.
        a_on_left: Whether the candidate is on the left.
    """

    pair: int
    kind: str
    system: int
    repeat_no: int = 0
    a_on_left: bool

    @property
    def name(self) -> str:
        """Name its kind as the schedule does."""
        return "repeat" if self.repeat_no else self.kind

    @property
    def counts(self) -> bool:
        """Say whether it holds a slot."""
        return self.name == "main"


@dataclass(frozen=True, kw_only=True)
class Record:
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

    def plus(self, choice: Choice) -> "Record":
        """Return the record with one more task."""
        shown = Counter(self.shown)
        if not choice.repeat_no:
            shown[_group(choice.kind, choice.system)] += 1
        return replace(
            self,
            given=self.given.plus(choice.name, 1),
            last_seq=self.last_seq + 1,
            shown=shown,
            repeats=self.repeats + choice.repeat_no,
        )


def who(enrolment: Enrolment) -> dict[str, int]:
    """Return the parameters of a statement about one person in one study."""
    return {"study": enrolment.study_id, "evaluator": enrolment.evaluator_id}


def record_of(session: Session, enrolment: Enrolment) -> Record:
    """Count what a person has been given."""
    rows = session.execute(_GIVEN, who(enrolment)).all()
    given, voted, shown = Given(), Given(), Counter[int | str]()
    for kind, system, repeat_no, state, count, _ in rows:
        name = "repeat" if repeat_no else kind
        given = given.plus(name, count) if state in SPENT_STATES else given
        voted = voted.plus(name, count) if state == "voted" else voted
        if not repeat_no:
            shown[_group(kind, system)] += count
    return Record(
        given=given,
        voted=voted,
        last_seq=max((row[5] for row in rows), default=0),
        shown=shown,
        repeats=sum(row[4] for row in rows if row[2]),
        lapsed=any(row[3] == "expired" for row in rows),
        open=any(row[3] in OPEN_STATES for row in rows),
    )


def _group(kind: str, system: int) -> int | str:
    return system if kind == "main" else kind


def choose(
    session: Session, enrolment: Enrolment, protocol: Protocol, record: Record
) -> tuple[Choice | None, int | None]:
    """Choose what is due, None when this person has done everything there is for them.

    Returns also, where that is known, how many real pairs are left after it.
    """
    if protocol.stopping == "sequential" and not session.scalar(_ANY_ASKED, who(enrolment)):
        return None, None
    for kind in next_kinds(protocol, enrolment.evaluator_id, record.given):
        if kind == "main" and enrolment.quota is not None and record.given.main >= enrolment.quota:
            break
        if kind == "repeat":
            choice, fresh = _repeat(session, enrolment, record), None
        else:
            choice, fresh = _take(session, enrolment, record, kind)
        if choice is not None:
            return choice, fresh
    return None, None


def chosen_before(
    session: Session, enrolment: Enrolment, protocol: Protocol, pair: int, repeat_no: int, a_on_left: bool
) -> tuple[Choice, bool]:
    """Return a choice made a while ago, and whether it is still asked for."""
    kind, system, asked = session.execute(_PAIR, {"pair": pair}).one()
    choice = Choice(pair=pair, kind=kind, system=system, repeat_no=repeat_no, a_on_left=a_on_left)
    if not choice.counts:
        asked = protocol.stopping != "sequential" or bool(session.scalar(_ANY_ASKED, who(enrolment)))
    return choice, asked


def _take(
    session: Session, enrolment: Enrolment, record: Record, kind: str
) -> tuple[Choice | None, int | None]:
    """Take the pair that needs votes most, in an order of this person's own."""
    key = enrolment.study.seed, enrolment.evaluator_id
    pairs = list(session.execute(FRESH, who(enrolment) | {"kind": kind}))
    pairs.sort(key=lambda pair: (-pair[1], keyed(*key, "order", pair[0])))
    for pair_id, _, system in pairs:
        if kind != "main" or take_slot(session, pair_id):
            group = _group(kind, system)
            block, place = divmod(record.shown.get(group, 0), 2)
            side = bool((keyed(*key, "side", group, block)[0] & 1) ^ place)
            choice = Choice(pair=pair_id, kind=kind, system=system, a_on_left=side)
            return choice, len(pairs) - 1 if kind == "main" else None
    return None, None


def _repeat(session: Session, enrolment: Enrolment, record: Record) -> Choice | None:
    """Ask a pair again that was voted on a while ago, every other time with exchanged sides."""
    second = aliased(Assignment)
    asked_again = exists().where(
        second.pair_id == Assignment.pair_id,
        second.evaluator_id == Assignment.evaluator_id,
        second.repeat_no > 0,
        second.state.in_(SPENT_STATES),
    )
    query = (
        select(Assignment.pair_id, Assignment.a_on_left, Pair.system_b)
        .join(Pair, Pair.id == Assignment.pair_id)
        .where(MINE, COUNTS, Assignment.state == "voted", ~asked_again)
        .order_by(Assignment.seq_no.desc())
        .offset(REPEAT_AFTER)
    )
    voted = session.execute(query, who(enrolment)).all()
    if not voted:
        return None
    key = enrolment.study.seed, enrolment.evaluator_id, "again"
    pair, on_left, system = min(voted, key=lambda row: keyed(*key, row[0]))
    side = on_left ^ (record.repeats % 2 == 0)
    return Choice(pair=pair, kind="main", system=system, repeat_no=1, a_on_left=side)


def take_slot(session: Session, pair_id: int) -> bool:
    """Take one of a pair's free slots; False when others took the last one meanwhile."""
    taken = session.execute(_TAKE_SLOT, {"pair": pair_id})
    return taken.first() is not None


def give_slot_back(session: Session, pair_id: int) -> None:
    """Free a slot that was taken."""
    session.execute(update(Pair).where(Pair.id == pair_id).values(slots_left=Pair.slots_left + 1))
