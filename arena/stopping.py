"""Say where each comparison of a sequential study stands, and ask nothing more about those that are decided.

Evaluators count once they have finished, in that order. A decision is recorded with the competitor and stays:
tasks already given out may still be voted on, new ones are not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from arena import audit
from arena.catalogue import system_label
from arena.models import OPEN_STATES, Assignment, Enrolment, Pair, Study, StudySystem, System
from arena.reservations import Reservation
from arena.tally import OVERALL, VoteRow, collected_votes

if TYPE_CHECKING:
    from arena.sequential import Decision

MEANINGS = {
    "better": "{candidate} is better than {competitor}",
    "worse": "{candidate} is worse than {competitor}",
    "equivalent": "{candidate} and {competitor} are equally good within the margin",
    "open": "{candidate} against {competitor} is open",
}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where one comparison of a sequential study stands.

    Attributes:
        candidate, competitor: Names of the two systems.
        system: Identifier of the competitor.
        verdict: "better" or "worse" for the candidate, "equivalent", or "open".
        final: Whether the verdict is that of the whole study, not of a look.
        evaluators: Finished evaluators who were looked at: until the decision, or all while it is open.
        ratio: Their ratio, every evaluator counting alike.
        interval: Interval that holds at every look, at ``level``; of all votes when ``final``. It is from 0 to
            inf while nothing can be said.
        level: Confidence of the interval.
        stopped_at: Since when nobody is asked about this competitor any more.
    """

    candidate: str
    competitor: str
    system: int
    verdict: str
    final: bool
    evaluators: int
    ratio: float | None
    interval: tuple[float, float]
    level: float
    stopped_at: datetime | None

    @property
    def sentence(self) -> str:
        """Say it in words."""
        said = MEANINGS[self.verdict].format(candidate=self.candidate, competitor=self.competitor)
        when = "in the whole study" if self.final else f"after {self.evaluators} finished evaluators"
        low, high = self.interval
        above = f"{high:.3f}" if math.isfinite(high) else "no bound"
        return f"{said} {when} ({100 * self.level:g} % interval {low:.3f} to {above})"


def is_sequential(study: Study) -> bool:
    """Say whether a study collects votes here and may stop at any look."""
    return study.kind == "arena" and study.protocol.get("stopping", "fixed") == "sequential"


def standings(session: Session, study: Study, collected: Sequence[VoteRow] | None = None) -> list[Standing]:
    """Return where each comparison stands by the overall votes of people who were not excluded.

    ``collected`` are the study's votes where they have been read already.
    """
    candidate = session.scalars(
        select(System)
        .join(StudySystem, StudySystem.system_id == System.id)
        .where(StudySystem.study_id == study.id, StudySystem.role == "candidate")
    ).one()
    competitors = session.execute(
        select(System, StudySystem.stopped_at)
        .join(StudySystem, StudySystem.system_id == System.id)
        .where(StudySystem.study_id == study.id, StudySystem.role == "competitor")
        .order_by(System.id)
    ).all()
    order = _finished(session, study)
    votes: dict[int, list[VoteRow]] = {}
    for vote in collected_votes(session, study) if collected is None else collected:
        if vote.counts and vote.criterion == OVERALL:
            votes.setdefault(vote.competitor, []).append(vote)
    complete = _complete(session, study)
    return [
        _standing(
            study, system_label(candidate), system, votes.get(system.id, []), order, complete, stopped_at
        )
        for system, stopped_at in competitors
    ]


def _finished(session: Session, study: Study) -> dict[str, int]:
    """Number those who have finished, in that order."""
    rows = session.scalars(
        select(Enrolment.evaluator_id)
        .where(Enrolment.study_id == study.id, Enrolment.finished_at.is_not(None))
        .order_by(Enrolment.finished_at, Enrolment.evaluator_id)
    )
    return {str(evaluator): place for place, evaluator in enumerate(rows)}


def _complete(session: Session, study: Study) -> set[int]:
    """Return the competitors that have every vote which was planned, none of them still open."""
    left = session.execute(
        select(Pair.system_b, func.sum(Pair.slots_left))
        .where(Pair.study_id == study.id, Pair.kind == "main")
        .group_by(Pair.system_b)
    )
    waiting = session.scalars(
        select(Pair.system_b)
        .join(Assignment, Assignment.pair_id == Pair.id)
        .where(Pair.study_id == study.id, Pair.kind == "main", Assignment.state.in_(OPEN_STATES))
    )
    reserved = session.scalars(
        select(Pair.system_b)
        .join(Reservation, Reservation.pair_id == Pair.id)
        .where(Pair.study_id == study.id, Pair.kind == "main")
    )
    return {system for system, slots in left if not slots} - set(waiting) - set(reserved)


def _standing(
    study: Study,
    candidate: str,
    system: System,
    votes: Sequence[VoteRow],
    order: dict[str, int],
    complete: set[int],
    stopped_at: datetime | None,
) -> Standing:
    from arena.sequential import LOOKS_SHARE, Decision

    protocol = study.protocol
    alpha, equivalence = float(protocol["alpha"]), protocol.get("equivalence")
    estimand = str(protocol.get("estimand", "two-way"))
    counted = sorted(
        (vote for vote in votes if vote.evaluator in order), key=lambda vote: order[vote.evaluator or ""]
    )
    found = Decision(verdict="open", evaluators=0, ratio=None, interval=(0.0, math.inf))
    if counted:
        found = _look(counted, estimand, alpha, equivalence)
    level = 1 - LOOKS_SHARE * alpha
    if found.verdict == "open" and system.id in complete:
        level = 1 - (1 - LOOKS_SHARE) * alpha
        found = _whole(votes, found, estimand, level, equivalence)
    return Standing(
        candidate=candidate,
        competitor=system_label(system),
        system=system.id,
        verdict=found.verdict,
        final=found.final,
        evaluators=found.evaluators,
        ratio=found.ratio,
        interval=found.interval,
        level=level,
        stopped_at=stopped_at,
    )


def _look(votes: Sequence[VoteRow], estimand: str, alpha: float, equivalence: float | None) -> "Decision":
    import numpy as np

    from arena.resampling import encode
    from arena.sequential import decide

    prompts = None if estimand == "evaluator" else encode([vote.prompt for vote in votes])
    return decide(
        np.array([vote.outcome for vote in votes], np.int64),
        encode([vote.evaluator for vote in votes]),
        prompts,
        alpha=alpha,
        equivalence=equivalence,
    )


def _whole(
    votes: Sequence[VoteRow], found: "Decision", estimand: str, level: float, equivalence: float | None
) -> "Decision":
    """Analyse a comparison that has all its votes in the ordinary way, with what is left of alpha."""
    from arena.report_statistics import compare
    from arena.sequential import verdict_of

    shown, _ = compare(votes, estimand, level)
    if shown.interval is None:
        return found
    return replace(
        found,
        verdict=verdict_of(shown.interval, equivalence),
        ratio=shown.ratio,
        interval=shown.interval,
        final=True,
    )


def stop_decided(session: Session, study: Study, now: datetime) -> None:
    """Ask nothing more about what is decided; call it when somebody has finished.

    With "adaptive" assignment a competitor stops by itself, otherwise all of them once the last is decided.
    """
    if not is_sequential(study):
        return
    # On PostgreSQL two who finish at once must see one another; a writer of SQLite is alone anyway.
    session.execute(select(Study.id).where(Study.id == study.id).with_for_update(key_share=True))
    asked = select(StudySystem.system_id).where(
        StudySystem.study_id == study.id, StudySystem.role == "competitor", StudySystem.stopped_at.is_(None)
    )
    if session.scalars(asked).first() is None:
        return
    found = [row for row in standings(session, study) if row.stopped_at is None]
    decided = [row for row in found if row.verdict != "open"]
    if study.protocol.get("assignment", "balanced") != "adaptive" and len(decided) < len(found):
        return
    for row in decided:
        session.get_one(StudySystem, (study.id, row.system)).stopped_at = now
        audit.record(
            session,
            "stopping rule",
            "comparison stopped",
            f"{study.slug}/{row.competitor}",
            found=row.sentence,
        )
    session.flush()


def stopping_report(
    session: Session, study: Study, collected: Sequence[VoteRow] | None = None
) -> dict[str, Any]:
    """Return the stopping rule of a study and where its comparisons stand, as plain JSON values."""
    if study.kind != "arena":
        return {"rule": None, "assignment": None, "comparisons": [], "sentence": ""}
    rows = standings(session, study, collected) if is_sequential(study) else []
    return {
        "rule": study.protocol.get("stopping", "fixed"),
        "assignment": study.protocol.get("assignment", "balanced"),
        "comparisons": [_plain(row) for row in rows],
        "sentence": _sentence(rows),
    }


def _plain(row: Standing) -> dict[str, Any]:
    return {
        "candidate": row.candidate,
        "competitor": row.competitor,
        "verdict": row.verdict,
        "final": row.final,
        "evaluators": row.evaluators,
        "ratio": row.ratio,
        "interval": [end if math.isfinite(end) else None for end in row.interval],
        "level": row.level,
        "stopped_at": None if row.stopped_at is None else row.stopped_at.isoformat(),
    }


def _sentence(rows: Sequence[Standing]) -> str:
    if not rows:
        return "The study was to be looked at once, when closed."
    decided = sum(row.verdict != "open" for row in rows)
    told = "; ".join(row.sentence for row in rows)
    return f"{decided} of {len(rows)} comparisons are decided, however often one looks: {told}."
