"""Gather the votes of a study, wherever they were cast, as plain rows."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import Session, aliased

from arena.models import (
    Assignment,
    Enrolment,
    ImportedVote,
    Pair,
    Prompt,
    Study,
    System,
    Vote,
    VoteCount,
)

OVERALL = "overall"


class VoteRow(NamedTuple):
    """One vote: +1 good, 0 same, -1 bad for the candidate; unknown identifiers are None.

    ``repeat`` marks a pair that was shown to its evaluator again to see whether he says the same; ``on_left`` says
    whether the candidate was on the left.
    """

    candidate: int
    competitor: int
    criterion: str
    outcome: int
    evaluator: str | None
    prompt: int | None
    origin: str
    excluded: bool = False
    repeat: bool = False
    on_left: bool | None = None

    @property
    def counts(self) -> bool:
        """Say whether results count it: cast by a person who was not excluded, on a pair not shown before."""
        return self.origin == "human" and not self.excluded and not self.repeat


@dataclass(frozen=True, kw_only=True)
class CountRow:
    """Good, same and bad of one published row."""

    candidate: int
    competitor: int
    criterion: str
    good: int
    same: int
    bad: int
    published_ratio: str | None
    origin: str


def latest_votes(study_id: int) -> Select[Any]:
    """Select the votes of a study that count: the last revision of each task and criterion."""
    later = aliased(Vote)
    superseded = (
        select(later.id)
        .where(
            later.assignment_id == Vote.assignment_id,
            later.criterion == Vote.criterion,
            later.rev > Vote.rev,
        )
        .exists()
    )
    return (
        select(Vote)
        .join(Assignment, Assignment.id == Vote.assignment_id)
        .where(Assignment.study_id == study_id, ~superseded)
        .order_by(Vote.id)
    )


def collected_votes(session: Session, study: Study) -> list[VoteRow]:
    """Return the votes cast here on pairs of the main part of a study."""
    query = (
        latest_votes(study.id)
        .join(Pair, Pair.id == Assignment.pair_id)
        .join(
            Enrolment,
            and_(
                Enrolment.study_id == Assignment.study_id, Enrolment.evaluator_id == Assignment.evaluator_id
            ),
        )
        .where(Pair.kind == "main")
        .with_only_columns(
            Pair.system_a,
            Pair.system_b,
            Vote.criterion,
            Vote.outcome,
            Vote.evaluator_id,
            Pair.prompt_id,
            Vote.origin,
            Enrolment.state,
            Assignment.repeat_no,
            Vote.a_on_left,
        )
    )
    return [
        VoteRow(*row[:4], str(row[4]), row[5], row[6], row[7] == "excluded", row[8] > 0, row[9])
        for row in session.execute(query)
    ]


def imported_votes(session: Session, study: Study) -> list[VoteRow]:
    """Return the votes that were imported into a study, in the order of their lines."""
    query = (
        select(
            ImportedVote.candidate_id,
            ImportedVote.competitor_id,
            ImportedVote.criterion,
            ImportedVote.outcome,
            ImportedVote.evaluator,
            ImportedVote.prompt_id,
            ImportedVote.origin,
        )
        .where(ImportedVote.study_id == study.id)
        .order_by(ImportedVote.import_id, ImportedVote.line)
    )
    return [VoteRow(*row) for row in session.execute(query)]


def imported_counts(session: Session, study: Study) -> list[CountRow]:
    """Return the counts that were imported into a study, in the order of their lines."""
    counts = session.scalars(
        select(VoteCount).where(VoteCount.study_id == study.id).order_by(VoteCount.import_id, VoteCount.line)
    )
    return [
        CountRow(
            candidate=row.candidate_id,
            competitor=row.competitor_id,
            criterion=row.criterion,
            good=row.good,
            same=row.same,
            bad=row.bad,
            published_ratio=row.published_ratio,
            origin=row.origin,
        )
        for row in counts
    ]


def count_human_votes(session: Session, study: Study) -> int:
    """Count the votes of people on the overall criterion, imported or cast here on pairs that count.

    Training, gold and repeated pairs are left out.
    """
    conditions = (ImportedVote.study_id == study.id, ImportedVote.origin == "human")
    brought = session.scalar(
        select(func.count(ImportedVote.id)).where(*conditions, ImportedVote.criterion == OVERALL)
    )
    counted = session.scalar(
        select(func.sum(VoteCount.good + VoteCount.same + VoteCount.bad)).where(
            VoteCount.study_id == study.id, VoteCount.origin == "human", VoteCount.criterion == OVERALL
        )
    )
    cast_here = session.scalar(
        select(func.count(Vote.id))
        .join(Assignment, Assignment.id == Vote.assignment_id)
        .join(Pair, Pair.id == Assignment.pair_id)
        .where(
            Assignment.study_id == study.id,
            Assignment.repeat_no == 0,
            Pair.kind == "main",
            Vote.origin == "human",
            Vote.criterion == OVERALL,
            Vote.rev == 0,
        )
    )
    return (brought or 0) + (counted or 0) + (cast_here or 0)


def prompt_texts(session: Session, ids: set[int]) -> dict[int, str]:
    """Return the texts of prompts by identifier."""
    rows = session.execute(select(Prompt.id, Prompt.text).where(Prompt.id.in_(ids)))
    return {row[0]: row[1] for row in rows}


def systems_by_id(session: Session) -> dict[int, System]:
    """Return every system by identifier."""
    return {system.id: system for system in session.scalars(select(System))}
