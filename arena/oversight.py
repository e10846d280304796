"""How a study is going: what each evaluator did, what speaks against anybody, and whether the design holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from statistics import median
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from arena.catalogue import system_label
from arena.models import Assignment, Enrolment, Evaluator, Pair, Study, Video, Vote
from arena.stopping import standings
from arena.tally import OVERALL, collected_votes, latest_votes, systems_by_id

SPEEDER_MS = 250
"""Median time from the end of the clips to the click below which nobody can have weighed anything."""
SPEEDER_VOTES = 10
ONE_SIDED_SHARE = 0.9
ONE_SIDED_VOTES = 20
GOLD_SHARE = 0.7
GOLD_VOTES = 4
REPEAT_SHARE = 0.5
REPEAT_VOTES = 6


@dataclass(frozen=True, kw_only=True)
class Cast:
    """One overall vote, as it matters for judging whoever cast it.

    Attributes:
        pair: Which pair.
        choice: "left", "same" or "right", as clicked.
        outcome: +1, 0 or -1 for the pair's first video.
        decision_ms: From when both clips could have been seen to the click.
        expected: The right outcome of training and gold pairs, None otherwise.
        kind: "main", "training" or "gold".
        repeat: Whether the pair had been asked before.
    """

    pair: int
    choice: str
    outcome: int
    decision_ms: int
    expected: int | None
    kind: str
    repeat: bool


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """What an evaluator's votes show of how they were cast; shares are None where there are no votes.

    Attributes:
        votes: Votes that count, repetitions and checks not included.
        median_decision_ms: Median time to decide.
        left, same: Shares of the clicks on the left and in the middle.
        longest_run: Most equal clicks in a row.
        gold_passed, gold: Gold pairs answered as expected, and all of them.
        repeats_kept, repeats: Repeated pairs judged as before, and all of them.
        flags: What speaks against this person, each with what was measured.
    """

    votes: int
    median_decision_ms: float | None
    left: float | None
    same: float | None
    longest_run: int
    gold_passed: int
    gold: int
    repeats_kept: int
    repeats: int
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Participant:
    """An evaluator of a study and how they went about it.

    ``reliability`` is the share of answers that follow the videos rather than a habit, 0 to 1; it compares
    evaluators of one study, and is None without votes that count.
    """

    pseudonym: str
    origin: str
    cohort: str
    state: str
    exclusion_reason: str | None
    finished_at: datetime | None
    reliability: float | None
    conduct: Conduct


@dataclass(frozen=True, kw_only=True)
class Balance:
    """How evenly the pairs against one competitor were shown.

    Attributes:
        competitor: Its name.
        votes: Votes on these pairs.
        candidate_left: Share of votes in which the candidate was on the left; None without votes.
        least, most: Votes of the pair with fewest and with most of them.
    """

    competitor: str
    votes: int
    candidate_left: float | None
    least: int
    most: int


def conduct_of(votes: Sequence[Cast]) -> Conduct:
    """Judge how one person voted, from their votes in the order in which they were cast."""
    real = [vote for vote in votes if vote.kind != "training"]
    gold = [vote for vote in real if vote.kind == "gold"]
    passed = sum(vote.outcome == vote.expected for vote in gold)
    first = {vote.pair: vote.outcome for vote in real if not vote.repeat}
    repeats = [vote for vote in real if vote.repeat and vote.pair in first]
    kept = sum(vote.outcome == first[vote.pair] for vote in repeats)
    decision = median(vote.decision_ms for vote in real) if real else None
    clicks = [vote.choice for vote in real]
    shares = {choice: clicks.count(choice) / len(clicks) for choice in ("left", "same", "right") if clicks}
    flags = []
    if decision is not None and len(real) >= SPEEDER_VOTES and decision < SPEEDER_MS:
        flags.append(f"speeder: decides in {decision:.0f} ms")
    if len(clicks) >= ONE_SIDED_VOTES and max(shares.values()) >= ONE_SIDED_SHARE:
        side = max(shares, key=lambda choice: shares[choice])
        flags.append(f"straight-liner: {side} in {shares[side]:.0%} of votes")
    if len(gold) >= GOLD_VOTES and passed / len(gold) < GOLD_SHARE:
        flags.append(f"gold: {passed} of {len(gold)} passed")
    if len(repeats) >= REPEAT_VOTES and kept / len(repeats) < REPEAT_SHARE:
        flags.append(f"repeats: {kept} of {len(repeats)} judged as before")
    return Conduct(
        votes=sum(vote.kind == "main" and not vote.repeat for vote in real),
        median_decision_ms=decision,
        left=shares.get("left"),
        same=shares.get("same"),
        longest_run=max((len(list(run)) for _, run in groupby(clicks)), default=0),
        gold_passed=passed,
        gold=len(gold),
        repeats_kept=kept,
        repeats=len(repeats),
        flags=tuple(flags),
    )


def participants(session: Session, study: Study) -> list[Participant]:
    """Return everybody who was let into a study, in the order in which they came."""
    casts: dict[int, list[Cast]] = {}
    for evaluator, cast in _casts(session, study):
        casts.setdefault(evaluator, []).append(cast)
    rows = session.scalars(
        select(Enrolment).where(Enrolment.study_id == study.id).order_by(Enrolment.evaluator_id)
    )
    reliable = _reliability(session, study)
    return [
        Participant(
            pseudonym=row.evaluator.pseudonym,
            origin=row.evaluator.origin,
            cohort=row.cohort,
            state=row.state,
            exclusion_reason=row.exclusion_reason,
            finished_at=row.finished_at,
            reliability=reliable.get(row.evaluator_id, {}).get("value"),
            conduct=_flagged(conduct_of(casts.get(row.evaluator_id, [])), reliable.get(row.evaluator_id)),
        )
        for row in rows
    ]


def _reliability(session: Session, study: Study) -> dict[int, dict[str, Any]]:
    """Return how far each evaluator's answers follow the videos; everybody but the excluded is compared."""
    from arena.report_statistics import reliability_of

    votes = [
        vote
        for vote in collected_votes(session, study)
        if not (vote.excluded or vote.repeat) and vote.criterion == OVERALL
    ]
    found = reliability_of(votes)["evaluators"] if votes else {}
    return {int(name): row for name, row in found.items()}


def _flagged(conduct: Conduct, reliability: dict[str, Any] | None) -> Conduct:
    if reliability is None or not reliability["uninformative"]:
        return conduct
    flag = f"uninformative: answers do not follow the videos (reliability {reliability['value']:.2f})"
    return replace(conduct, flags=(*conduct.flags, flag))


def _casts(session: Session, study: Study) -> Iterable[tuple[int, Cast]]:
    lengths: dict[int, int] = {row[0]: row[1] for row in session.execute(select(Video.id, Video.duration_ms))}
    query = (
        latest_votes(study.id)
        .join(Pair, Pair.id == Assignment.pair_id)
        .where(Vote.criterion == OVERALL)
        .with_only_columns(
            Vote.evaluator_id,
            Vote.raw_choice,
            Vote.outcome,
            Vote.rt_ms,
            Pair.id,
            Pair.kind,
            Pair.expected,
            Pair.video_a,
            Pair.video_b,
            Assignment.repeat_no,
        )
    )
    for row in session.execute(query):
        clips = max(lengths[row.video_a], lengths[row.video_b])
        yield (
            row.evaluator_id,
            Cast(
                pair=row.id,
                choice=row.raw_choice,
                outcome=row.outcome,
                decision_ms=row.rt_ms - clips,
                expected=row.expected,
                kind=row.kind,
                repeat=row.repeat_no > 0,
            ),
        )


def balance(session: Session, study: Study) -> list[Balance]:
    """Return how evenly each competitor's pairs and sides were shown; repetitions are left out."""
    on_left = func.sum(case((Vote.a_on_left, 1), else_=0))
    rows = session.execute(
        select(Pair.system_b, Pair.id, func.count(Vote.id), func.coalesce(on_left, 0))
        .outerjoin(Assignment, (Assignment.pair_id == Pair.id) & (Assignment.repeat_no == 0))
        .outerjoin(
            Vote, (Vote.assignment_id == Assignment.id) & (Vote.criterion == OVERALL) & (Vote.rev == 0)
        )
        .where(Pair.study_id == study.id, Pair.kind == "main")
        .group_by(Pair.system_b, Pair.id)
        .order_by(Pair.system_b)
    ).all()
    names = systems_by_id(session)
    found = []
    for competitor, group in groupby(rows, key=lambda row: row[0]):
        pairs = list(group)
        votes, left = sum(row[2] for row in pairs), sum(row[3] for row in pairs)
        counts = [row[2] for row in pairs]
        found.append(
            Balance(
                competitor=system_label(names[competitor]),
                votes=votes,
                candidate_left=left / votes if votes else None,
                least=min(counts),
                most=max(counts),
            )
        )
    return found


def comments(session: Session, study: Study) -> list[dict[str, Any]]:
    """Return what evaluators wrote, last first."""
    query = (
        select(Evaluator.pseudonym, Vote.comment, Vote.created_at)
        .join(Assignment, Assignment.id == Vote.assignment_id)
        .join(Evaluator, Evaluator.id == Vote.evaluator_id)
        .where(Assignment.study_id == study.id, Vote.comment != "", Vote.criterion == OVERALL)
        .order_by(Vote.id.desc())
    )
    names = ("evaluator", "comment", "at")
    return [dict(zip(names, row, strict=True)) for row in session.execute(query)]


def results_hidden(study: Study) -> bool:
    """Say whether results must wait: until the end, unless they stay valid at every look."""
    return (
        study.kind == "arena"
        and study.state in ("open", "paused")
        and study.protocol.get("stopping", "fixed") != "sequential"
    )


def sequential_rows(session: Session, study: Study) -> list[dict[str, Any]]:
    """Return where each comparison stands, with an interval that holds however often one looks.

    Evaluators count once they have finished, in that order; each counts alike. Comparisons without such votes
    are left out.
    """
    return [
        {
            "competitor": row.competitor,
            "evaluators": row.evaluators,
            "ratio": row.ratio,
            "lower": row.interval[0],
            "upper": row.interval[1],
            "decided": row.verdict != "open",
            "verdict": row.verdict,
        }
        for row in standings(session, study)
        if row.evaluators
    ]
