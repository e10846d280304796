"""Let people in, by invitation or by code, keep out whom the organiser excludes, and write down why.

No row is ever deleted; whoever asks to be forgotten loses every name and word, while the votes stay.
"""

import math
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import bindparam, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from arena import audit
from arena.columns import new_token, now_utc, token_hash
from arena.errors import LinkRefused, StudyError
from arena.models import Enrolment, Evaluator, Flag, RegistrationCode, Study, Vote

BARRED_STATES = ("revoked", "excluded")
LONGEST_REASON = 2_000
CODE_LENGTHS = (6, 128)
ERASED = "erased on request"
_BY_TOKEN = select(Enrolment).where(Enrolment.token_hash == bindparam("token_hash"))


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """A newly let in evaluator; the token is shown this once."""

    token: str = field(repr=False)
    evaluator_id: int
    pseudonym: str


def enrol_in(
    session: Session,
    study: Study,
    *,
    pseudonym: str | None = None,
    origin: str = "human",
    expires_at: datetime | None = None,
    quota: int | None = None,
    cohort: str = "",
) -> Enrolled:
    """Let an evaluator into a study and return the token that proves it; only its hash is kept.

    Args:
        session: An open session.
        study: A study that collects votes and is not closed.
        pseudonym: A name of its own; drawn if None.
        origin: "human", "automatic" or "simulated", for good.
        expires_at: When the link stops working; None for never.
        quota: Most pairs asked of this person; the protocol's if None.
        cohort: A group for comparison, such as "experts".
    """
    if study.kind != "arena" or study.state == "closed":
        raise StudyError(f"study {study.slug!r} takes no evaluators: it is {study.kind} and {study.state}")
    token = new_token()
    evaluator = Evaluator(
        pseudonym=pseudonym or f"evaluator-{new_token()[:8]}", origin=origin, created_at=now_utc()
    )
    session.add(evaluator)
    try:
        session.flush()
    except IntegrityError as error:
        raise StudyError(f"the pseudonym {evaluator.pseudonym!r} is taken: choose another") from error
    session.add(
        Enrolment(
            study_id=study.id,
            evaluator_id=evaluator.id,
            token_hash=token_hash(token),
            state="active",
            quota=study.protocol.get("quota") if quota is None else quota,
            cohort=cohort,
            expires_at=expires_at,
            created_at=now_utc(),
        )
    )
    session.flush()
    return Enrolled(token=token, evaluator_id=evaluator.id, pseudonym=evaluator.pseudonym)


def add_code(
    session: Session,
    study: Study,
    code: str,
    *,
    places: int,
    by: str,
    expires_at: datetime | None = None,
    quota: int | None = None,
    cohort: str = "",
) -> None:
    """Make a code by which people may let themselves into a study; only its hash is kept.

    Args:
        session: An open session.
        study: A study that collects votes and is not closed.
        code: What people type; upper and lower case, and spaces around it, make no difference.
        places: How many people it lets in.
        by: Who made it.
        expires_at: When it stops working; None for never.
        quota: Most pairs asked of each person; the protocol's if None.
        cohort: A group for comparison.

    Raises:
        StudyError: The study takes nobody, or the code is too short, too long or in use.
    """
    if study.kind != "arena" or study.state == "closed":
        raise StudyError(f"study {study.slug!r} takes no evaluators: it is {study.kind} and {study.state}")
    shortest, longest = CODE_LENGTHS
    if not shortest <= len(code.strip()) <= longest:
        raise StudyError(f"a registration code has {shortest} to {longest} characters")
    if places < 1:
        raise StudyError(f"a registration code lets in 1 person or more, received {places}")
    session.add(
        RegistrationCode(
            study_id=study.id,
            code_hash=_code_hash(code),
            places=places,
            places_left=places,
            quota=quota,
            cohort=cohort,
            expires_at=expires_at,
            created_at=now_utc(),
        )
    )
    try:
        session.flush()
    except IntegrityError as error:
        raise StudyError("this registration code is in use: choose another") from error
    audit.record(session, by, "registration code made", study.slug, places=places)


def register(session: Session, code: str, *, now: datetime | None = None) -> Enrolled:
    """Let somebody in who knows a registration code; never more people than it has places.

    Raises:
        LinkRefused: The code is unknown or withdrawn, has expired or has no places left, or its study is closed.
    """
    moment = now or now_utc()
    found = _code(session, code)
    if found is None:
        raise LinkRefused("this code is not the right one: check it and try again")
    if found.revoked_at is not None:
        raise LinkRefused("this code was withdrawn: ask for a new one")
    if found.expires_at is not None and found.expires_at < moment:
        raise LinkRefused("this code has expired: ask for a new one")
    study = session.get_one(Study, found.study_id)
    if study.state == "closed":
        raise LinkRefused("this study is closed: it takes no new participants")
    taken = session.execute(
        update(RegistrationCode)
        .where(
            RegistrationCode.id == found.id,
            RegistrationCode.places_left > 0,
            RegistrationCode.revoked_at.is_(None),
        )
        .values(places_left=RegistrationCode.places_left - 1)
        .returning(RegistrationCode.id)
        .execution_options(synchronize_session=False)
    )
    if taken.first() is None:
        raise LinkRefused("this code was withdrawn or every place of it is taken")
    return enrol_in(session, study, quota=found.quota, cohort=found.cohort)


@dataclass(frozen=True, kw_only=True)
class CodeState:
    """How a registration code stands; the code itself is nowhere, so a number stands for it.

    Attributes:
        number: Which one it is.
        state: "open", "used" (every place is taken), "expired" or "revoked".
        places, taken: How many people it lets in, and how many came.
        cohort: The group of those who came.
        created_at, expires_at: Since when and until when.
    """

    number: int
    state: str
    places: int
    taken: int
    cohort: str
    created_at: datetime
    expires_at: datetime | None


def codes(session: Session, study: Study, *, now: datetime | None = None) -> list[CodeState]:
    """Return how each registration code of a study stands, oldest first."""
    moment = now or now_utc()
    query = (
        select(RegistrationCode)
        .where(RegistrationCode.study_id == study.id)
        .order_by(RegistrationCode.id)
        .execution_options(populate_existing=True)
    )
    return [
        CodeState(
            number=code.id,
            state=_code_state(code, moment),
            places=code.places,
            taken=code.places - code.places_left,
            cohort=code.cohort,
            created_at=code.created_at,
            expires_at=code.expires_at,
        )
        for code in session.scalars(query)
    ]


def _code_state(code: RegistrationCode, now: datetime) -> str:
    if code.revoked_at is not None:
        return "revoked"
    if not code.places_left:
        return "used"
    return "expired" if code.expires_at is not None and code.expires_at < now else "open"


def revoke_code(session: Session, study: Study, number: int, *, by: str) -> None:
    """Make a registration code let in nobody more; those who came by it stay.

    Raises:
        StudyError: The study has no such code, or it was withdrawn before.
    """
    changed = session.execute(
        update(RegistrationCode)
        .where(
            RegistrationCode.id == number,
            RegistrationCode.study_id == study.id,
            RegistrationCode.revoked_at.is_(None),
        )
        .values(revoked_at=now_utc())
        .returning(RegistrationCode.id)
        .execution_options(synchronize_session=False)
    )
    if changed.first() is None:
        raise StudyError(f"study {study.slug!r} has no code {number} that could be withdrawn")
    audit.record(session, by, "registration code revoked", study.slug, code=number)


def study_of_code(session: Session, code: str) -> int | None:
    """Return the study that a registration code is of, whether or not it still lets anybody in."""
    found = _code(session, code)
    return None if found is None else found.study_id


def _code(session: Session, code: str) -> RegistrationCode | None:
    found: RegistrationCode | None = session.scalar(
        select(RegistrationCode).where(RegistrationCode.code_hash == _code_hash(code))
    )
    return found


def _code_hash(code: str) -> str:
    return token_hash(" ".join(code.casefold().split()))


def find_enrolment(session: Session, token: str, *, now: datetime | None = None) -> Enrolment:
    """Return whose token this is, with ``.study`` and ``.evaluator``.

    Raises:
        LinkRefused: The token is unknown, revoked or expired.
    """
    enrolment: Enrolment | None = session.scalar(_BY_TOKEN, {"token_hash": token_hash(token)})
    if enrolment is None or enrolment.state in BARRED_STATES:
        raise LinkRefused("this link is not valid: ask for a new one")
    if enrolment.expires_at is not None and enrolment.expires_at < (now or now_utc()):
        raise LinkRefused("this link has expired: ask for a new one")
    return enrolment


def consent(session: Session, token: str) -> None:
    """Record that an evaluator agreed to the study's consent text; the first time stays."""
    enrolment = find_enrolment(session, token)
    if enrolment.consented_at is None:
        enrolment.consented_at = now_utc()
        session.flush()


def revoke(session: Session, study: Study, pseudonym: str, *, by: str) -> None:
    """Make an evaluator's link stop working; votes already cast stay and count."""
    enrolment = _enrolment_of(session, study, pseudonym)
    if enrolment.state in BARRED_STATES:
        raise StudyError(f"{pseudonym!r} is {enrolment.state} already")
    enrolment.state = "revoked"
    audit.record(session, by, "link revoked", f"{study.slug}/{pseudonym}")


def exclude(
    session: Session,
    study: Study,
    pseudonym: str,
    *,
    reason: str,
    by: str,
    rule: str = "judgement",
    value: float | None = None,
) -> None:
    """Leave an evaluator's votes out of every result, for a reason that is kept; nothing is deleted.

    Args:
        session: An open session.
        study: The study.
        pseudonym: Whom to exclude.
        reason: Why, in words; it appears in the study's records.
        by: Who decided.
        rule: The check that spoke against the person, such as "gold pass rate".
        value: What that check measured.
    """
    reason = reason.strip()
    if not 0 < len(reason) <= LONGEST_REASON:
        raise StudyError(f"an exclusion needs a reason of at most {LONGEST_REASON} characters")
    if value is not None and not math.isfinite(value):
        raise StudyError(f"{rule}: {value} is no value to keep")
    enrolment = _enrolment_of(session, study, pseudonym)
    if enrolment.state == "excluded":
        raise StudyError(f"{pseudonym!r} is excluded already: {enrolment.exclusion_reason}")
    before, enrolment.state, enrolment.exclusion_reason = enrolment.state, "excluded", reason
    _flag(session, study, enrolment, rule=rule, value=value, reason=reason, by=by)
    audit.record(
        session,
        by,
        "evaluator excluded",
        f"{study.slug}/{pseudonym}",
        before=before,
        rule=rule,
        reason=reason,
    )


def readmit(session: Session, study: Study, pseudonym: str, *, reason: str, by: str) -> None:
    """Count an excluded evaluator's votes again; the exclusion and its reason stay in the records."""
    reason = reason.strip()
    if not 0 < len(reason) <= LONGEST_REASON:
        raise StudyError(f"a readmission needs a reason of at most {LONGEST_REASON} characters")
    enrolment = _enrolment_of(session, study, pseudonym)
    if enrolment.state != "excluded":
        raise StudyError(f"{pseudonym!r} is {enrolment.state}, not excluded")
    enrolment.state, enrolment.exclusion_reason = "active", None
    _flag(session, study, enrolment, rule="readmission", value=None, reason=reason, by=by)
    audit.record(session, by, "evaluator readmitted", f"{study.slug}/{pseudonym}", reason=reason)


def forget(session: Session, study: Study, pseudonym: str, *, by: str, comments: bool = False) -> str:
    """Erase what could tell who an evaluator is; the votes stay and count, under a new pseudonym.

    Pseudonym, group, link and the words of exclusions go in every study of this person; the link stops working.
    Earlier entries of the log keep the old pseudonym, which names nobody any more, and files that were
    exported before keep what they hold.

    Args:
        session: An open session.
        study: A study of this person.
        pseudonym: Whom to forget.
        by: Who did it.
        comments: Whether to empty what this person wrote, too.

    Returns:
        The new pseudonym.
    """
    evaluator = _enrolment_of(session, study, pseudonym).evaluator
    evaluator.pseudonym = f"forgotten-{new_token()[:8]}"
    for row in session.scalars(select(Enrolment).where(Enrolment.evaluator_id == evaluator.id)):
        row.token_hash, row.cohort = token_hash(new_token()), ""
        if row.state == "excluded":
            row.exclusion_reason = ERASED
        else:
            row.state = "revoked"
    session.execute(
        update(Flag)
        .where(Flag.subject_kind == "evaluator", Flag.subject_id == evaluator.id)
        .values(reason=ERASED)
    )
    if comments:
        mine = Vote.evaluator_id == evaluator.id
        session.execute(update(Vote).where(mine, Vote.comment != "").values(comment=""))
    session.flush()
    audit.record(session, by, "evaluator forgotten", f"{study.slug}/{evaluator.pseudonym}", comments=comments)
    return evaluator.pseudonym


def _flag(
    session: Session,
    study: Study,
    enrolment: Enrolment,
    *,
    rule: str,
    value: float | None,
    reason: str,
    by: str,
) -> None:
    session.add(
        Flag(
            study_id=study.id,
            subject_kind="evaluator",
            subject_id=enrolment.evaluator_id,
            rule=rule,
            value=value,
            reason=reason,
            decided_by=by,
            created_at=now_utc(),
        )
    )
    session.flush()


def _enrolment_of(session: Session, study: Study, pseudonym: str) -> Enrolment:
    enrolment = session.scalar(
        select(Enrolment)
        .join(Evaluator, Evaluator.id == Enrolment.evaluator_id)
        .where(Enrolment.study_id == study.id, Evaluator.pseudonym == pseudonym)
    )
    if enrolment is None:
        raise StudyError(f"study {study.slug!r} has no evaluator {pseudonym!r}")
    return enrolment
