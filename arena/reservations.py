"""The pair an evaluator will be shown next: its slot is taken while they watch another, its clips load early.

A person has one at most. It becomes their task when they ask for the next one; it is given up when its
competitor has been decided meanwhile, or when its time runs out like that of a task.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, String, and_, bindparam, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from arena.choosing import Choice, chosen_before, give_slot_back, who
from arena.constraints import rows
from arena.models import Base, Enrolment, Pair, Study
from arena.protocol import Protocol


class Reservation(Base):
    """A pair that is kept for an evaluator, with the names which its task and its clips will have."""

    __tablename__ = "reservations"
    __table_args__ = (
        rows("enrolments", "study_id=study_id", "evaluator_id=evaluator_id"),
        rows("pairs", "study_id=study_id", "pair_id=id"),
        CheckConstraint("nonce_left <> nonce_right", "two_nonces"),
        Index("ix_reservations_lease", "study_id", "lease_until"),
    )
    study_id: Mapped[int] = mapped_column(primary_key=True)
    evaluator_id: Mapped[int] = mapped_column(primary_key=True)
    pair_id: Mapped[int]
    repeat_no: Mapped[int]
    a_on_left: Mapped[bool]
    token: Mapped[str] = mapped_column(String(26), unique=True)
    nonce_left: Mapped[str] = mapped_column(String(26), unique=True)
    nonce_right: Mapped[str] = mapped_column(String(26), unique=True)
    lease_until: Mapped[datetime]


_MINE = and_(Reservation.study_id == bindparam("study"), Reservation.evaluator_id == bindparam("evaluator"))
_HELD = select(Reservation).where(_MINE)
_TAKE = (
    delete(Reservation)
    .where(_MINE)
    .returning(
        Reservation.pair_id,
        Reservation.repeat_no,
        Reservation.a_on_left,
        Reservation.token,
        Reservation.nonce_left,
        Reservation.nonce_right,
    )
    .execution_options(synchronize_session=False)
)
_LATE = (
    select(Reservation.evaluator_id, Reservation.pair_id, Reservation.repeat_no, Pair.kind)
    .join(Pair, Pair.id == Reservation.pair_id)
    .where(Reservation.study_id == bindparam("study"), Reservation.lease_until < bindparam("now"))
    .order_by(Reservation.evaluator_id)
    .with_for_update(skip_locked=True, of=Reservation)
)
_DROP = delete(Reservation).where(_MINE).execution_options(synchronize_session=False)
RESERVED_PAIR = select(Reservation.pair_id).where(_MINE).scalar_subquery()
"""The pair that is kept for the person a statement is about."""


def held(session: Session, enrolment: Enrolment) -> Reservation | None:
    """Return what is kept for a person."""
    found: Reservation | None = session.scalar(_HELD, who(enrolment))
    return found


def reserve(
    session: Session, enrolment: Enrolment, choice: Choice, names: Mapping[str, Any], until: datetime
) -> Reservation:
    """Keep a pair for a person, under the names and the side that its task will have."""
    kept = Reservation(
        study_id=enrolment.study_id,
        evaluator_id=enrolment.evaluator_id,
        pair_id=choice.pair,
        repeat_no=choice.repeat_no,
        **names,
        lease_until=until,
    )
    session.add(kept)
    return kept


def take_reserved(
    session: Session, enrolment: Enrolment, protocol: Protocol
) -> tuple[Choice, dict[str, Any]] | None:
    """End what is kept for a person and return it with its names; None when nothing is, or it is not asked."""
    row = session.execute(_TAKE, who(enrolment)).first()
    if row is None:
        return None
    pair, repeat_no, a_on_left, token, left, right = row
    choice, asked = chosen_before(session, enrolment, protocol, pair, repeat_no, a_on_left)
    if not asked:
        if choice.counts:
            give_slot_back(session, pair)
        return None
    return choice, {"token": token, "a_on_left": a_on_left, "nonce_left": left, "nonce_right": right}


def give_back_late(session: Session, study: Study, now: datetime) -> int:
    """End what has been kept too long and free its slots; return how many."""
    late = session.execute(_LATE, {"study": study.id, "now": now}).all()
    for evaluator, pair, repeat_no, kind in late:
        session.execute(_DROP, {"study": study.id, "evaluator": evaluator})
        if kind == "main" and not repeat_no:
            give_slot_back(session, pair)
    return len(late)
