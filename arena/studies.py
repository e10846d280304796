"""Make a study, show it, open it, close it, and let people in."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from arena import audit
from arena.catalogue import find_system, system_label
from arena.columns import now_utc
from arena.database import Database
from arena.errors import StudyError
from arena.evaluators import Enrolled, enrol_in
from arena.models import (
    OPEN_STATES,
    Assignment,
    DegradedCopy,
    Enrolment,
    Pair,
    Presentation,
    Prompt,
    Study,
    StudyPrompt,
    StudySystem,
    System,
    Video,
    Vote,
)
from arena.presentation import make_presentations
from arena.protocol import Protocol, protocol_digest
from arena.tally import OVERALL, count_human_votes


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """How far a study has come; imported studies have votes but no pairs.

    Training, gold and repeated pairs are asked on top and counted in ``checks`` only. ``stopping`` is the rule of
    the protocol; ``stopped`` names the competitors nobody is asked about any more.
    """

    slug: str
    kind: str
    state: str
    systems: tuple[str, ...]
    stopping: str | None
    stopped: tuple[str, ...]
    pairs: int
    prompts: int
    target_votes: int
    votes: int
    checks: int
    evaluators: int
    finished: int
    open_tasks: int


def create_study(
    session: Session,
    slug: str,
    protocol: Protocol,
    *,
    prompts: Sequence[str] | None = None,
    replace: bool = False,
) -> Study:
    """Draft a study over the videos that candidate and competitors have of the same prompts.

    The n-th video of one system, ordered by seed, meets the n-th of the other. Creating the same study again
    returns it.

    Args:
        session: An open session.
        slug: Name of the study.
        protocol: What it lays down.
        prompts: Texts to restrict it to; all shared prompts otherwise.
        replace: Give a study which is still a draft another protocol.

    Raises:
        StudyError: Another protocol has this name, a competitor shares no prompt with the candidate, or a category
            names a prompt that is not among them.
    """
    plan = protocol.to_dict()
    study = session.scalar(select(Study).where(Study.slug == slug))
    if study is not None:
        if study.kind == "arena" and Protocol.from_dict(study.protocol) == protocol and not replace:
            return study
        if not replace or study.state != "draft":
            raise StudyError(
                f"there is a study {slug!r} ({study.state}) with another protocol already: choose another name"
            )
        _empty_draft(session, study)
        study.protocol, study.protocol_sha256, study.seed = plan, protocol_digest(plan), protocol.seed
    else:
        study = add_study(session, slug, kind="arena", protocol=plan, seed=protocol.seed)
    candidate = find_system(session, protocol.candidate)
    competitors = [find_system(session, name) for name in protocol.competitors]
    session.add(StudySystem(study_id=study.id, system_id=candidate.id, role="candidate"))
    session.add_all(
        StudySystem(study_id=study.id, system_id=system.id, role="competitor") for system in competitors
    )
    session.flush()
    pairs = _matched(session, protocol, candidate, competitors, prompts)
    _check_categories(protocol, {ours.prompt.text for ours, _ in pairs})
    _add_pairs(session, study, protocol, pairs)
    _add_checks(session, study, protocol, pairs)
    audit.record(session, "owner", "study created", slug, protocol_sha256=study.protocol_sha256)
    return study


def _check_categories(protocol: Protocol, texts: set[str]) -> None:
    for name, prompts in protocol.categories.items():
        unknown = [text for text in prompts if text not in texts]
        if unknown:
            raise StudyError(
                f"category {name!r} names {unknown[0]!r}, of which this study has no pair of videos"
            )


def study_protocol(study: Study) -> Protocol:
    """Return the protocol of a study that collects votes; keys newer than the study have their defaults."""
    return Protocol.from_dict(study.protocol)


def _empty_draft(session: Session, study: Study) -> None:
    """Take away what a draft's former protocol made; nobody can have voted on it."""
    for model in (DegradedCopy, Presentation, Pair, StudyPrompt, StudySystem):
        session.execute(delete(model).where(model.study_id == study.id))


def _matched(
    session: Session,
    protocol: Protocol,
    candidate: System,
    competitors: Sequence[System],
    prompts: Sequence[str] | None,
) -> list[tuple[Video, Video]]:
    """Return the candidate's and each competitor's videos of the same prompts, side by side."""
    ours = _videos_by_prompt(session, candidate.id, prompts)
    chosen: list[tuple[Video, Video]] = []
    for system in competitors:
        theirs = _videos_by_prompt(session, system.id, prompts)
        shared = [pair for prompt in ours if prompt in theirs for pair in zip(ours[prompt], theirs[prompt])]  # noqa: B905
        if not shared:
            raise StudyError(
                f"{protocol.candidate!r} and {system_label(system)!r} have no videos of the same prompt"
            )
        chosen += shared
    return chosen


def add_study(session: Session, slug: str, *, kind: str, protocol: dict[str, Any], seed: int = 0) -> Study:
    """Insert a study row; imported studies are closed from the start."""
    if not slug.strip():
        raise StudyError("a study needs a name")
    study = Study(
        slug=slug,
        kind=kind,
        protocol=protocol,
        protocol_sha256=protocol_digest(protocol),
        seed=seed,
        state="draft" if kind == "arena" else "closed",
        created_at=now_utc(),
    )
    session.add(study)
    session.flush()
    return study


def _videos_by_prompt(
    session: Session, system_id: int, prompts: Sequence[str] | None
) -> dict[int, list[Video]]:
    query = (
        select(Video).where(Video.system_id == system_id).order_by(Video.prompt_id, Video.seed, Video.variant)
    )
    if prompts is not None:
        query = query.where(Video.prompt_id.in_(select(Prompt.id).where(Prompt.text.in_(prompts))))
    grouped: dict[int, list[Video]] = {}
    for video in session.scalars(query):
        grouped.setdefault(video.prompt_id, []).append(video)
    return grouped


def _add_pairs(
    session: Session, study: Study, protocol: Protocol, pairs: Iterable[tuple[Video, Video]]
) -> None:
    pairs = list(pairs)
    session.add_all(
        StudyPrompt(study_id=study.id, prompt_id=prompt_id, split="main")
        for prompt_id in sorted({ours.prompt_id for ours, _ in pairs})
    )
    session.flush()
    session.add_all(
        Pair(
            study_id=study.id,
            prompt_id=ours.prompt_id,
            video_a=ours.id,
            system_a=ours.system_id,
            video_b=theirs.id,
            system_b=theirs.system_id,
            kind="main",
            target_votes=protocol.votes_per_pair,
            slots_left=protocol.votes_per_pair,
        )
        for ours, theirs in pairs
    )
    session.flush()


def _add_checks(
    session: Session, study: Study, protocol: Protocol, pairs: Sequence[tuple[Video, Video]]
) -> None:
    """Add training and gold pairs: a video against its degraded copy, so that the answer is beyond doubt."""
    asked = min(protocol.quota or len(pairs), len(pairs))
    gold = math.ceil(protocol.gold_share * asked)
    videos = sorted(
        {video.id: video for pair in pairs for video in pair}.values(), key=lambda video: video.id
    )
    random.Random(protocol.seed).shuffle(videos)
    if len(videos) < protocol.training_pairs + min(gold, 1):
        raise StudyError(
            f"{protocol.training_pairs} training pairs and a gold pair need as many different videos,"
            f" this study has {len(videos)}"
        )
    kinds = ["training"] * protocol.training_pairs + ["gold"] * gold
    session.add_all(
        Pair(
            study_id=study.id,
            prompt_id=video.prompt_id,
            video_a=video.id,
            system_a=video.system_id,
            video_b=video.id,
            system_b=video.system_id,
            kind=kind,
            expected=1,
            target_votes=0,
            slots_left=0,
        )
        for kind, video in zip(kinds, videos, strict=False)
    )
    session.flush()


def get_study(session: Session, slug: str) -> Study:
    """Return a study by name, or say which ones there are."""
    study = session.scalar(select(Study).where(Study.slug == slug))
    if study is None:
        known = ", ".join(session.scalars(select(Study.slug).order_by(Study.slug))) or "none yet"
        raise StudyError(f"there is no study {slug!r}: known studies are {known}")
    return study


def list_studies(session: Session) -> list[Study]:
    """Return every study, oldest first."""
    return list(session.scalars(select(Study).order_by(Study.id)))


def open_study(
    database: Database,
    slug: str,
    progress: Callable[[int, int], None] | None = None,
    *,
    keep_at: str | None = None,
) -> Study:
    """Make the blinded copies a study lacks, then let people vote on it; may be interrupted and repeated.

    Args:
        database: Where the study is; copies are made outside any transaction.
        slug: Name of the study.
        progress: Called with copies made and copies needed.
        keep_at: Folder or fsspec URL to keep the copies at; by default they go into the database.
    """
    with database.reading() as session:
        study = get_study(session, slug)
        if study.kind != "arena":
            raise StudyError(f"study {slug!r} was imported: nobody can vote on it here")
        if study.state not in ("draft", "paused", "open"):
            raise StudyError(f"study {slug!r} is {study.state} and cannot be opened again")
    make_presentations(database, study.id, study_protocol(study), keep_at=keep_at, progress=progress)
    return _move(database, slug, "open")


def pause_study(database: Database, slug: str) -> Study:
    """Stop handing out pairs; it can be opened again."""
    return _move(database, slug, "paused")


def close_study(database: Database, slug: str) -> Study:
    """End a study for good: no vote is taken any more."""
    return _move(database, slug, "closed")


def _move(database: Database, slug: str, state: str) -> Study:
    with database.session() as session:
        study = get_study(session, slug)
        if study.state == state:
            return study
        before, study.state = study.state, state
        if state == "open" and study.opened_at is None:
            study.opened_at = now_utc()
        if state == "closed":
            study.closed_at = now_utc()
        try:
            session.flush()
        except IntegrityError as error:
            raise StudyError(f"study {slug!r} is {before} and cannot become {state}") from error
        audit.record(session, "owner", f"study {state}", slug, before=before)
        return study


def enrol(session: Session, slug: str, **options: Any) -> Enrolled:
    """Let an evaluator into a study; options are those of `arena.evaluators.enrol_in`."""
    return enrol_in(session, get_study(session, slug), **options)


def study_status(session: Session, slug: str) -> StudyStatus:
    """Count what a study has of pairs, people, open tasks and human votes."""
    study = get_study(session, slug)
    pairs, target = session.execute(
        select(func.count(Pair.id), func.coalesce(func.sum(Pair.target_votes), 0)).where(
            Pair.study_id == study.id, Pair.kind == "main"
        )
    ).one()
    systems = session.execute(
        select(System, StudySystem.stopped_at)
        .join(StudySystem, StudySystem.system_id == System.id)
        .where(StudySystem.study_id == study.id)
        .order_by(StudySystem.role, System.name)
    ).all()
    votes = count_human_votes(session, study)
    return StudyStatus(
        slug=study.slug,
        kind=study.kind,
        state=study.state,
        systems=tuple(system_label(system) for system, _ in systems),
        stopping=study_protocol(study).stopping if study.kind == "arena" else None,
        stopped=tuple(system_label(system) for system, stopped_at in systems if stopped_at is not None),
        pairs=pairs,
        prompts=_count(session, StudyPrompt.prompt_id, StudyPrompt.study_id == study.id),
        target_votes=target,
        votes=votes,
        checks=_votes_here(session, study) - votes if study.kind == "arena" else 0,
        evaluators=_count(session, Enrolment.evaluator_id, Enrolment.study_id == study.id),
        finished=_count(
            session,
            Enrolment.evaluator_id,
            Enrolment.study_id == study.id,
            Enrolment.finished_at.is_not(None),
        ),
        open_tasks=_count(
            session, Assignment.id, Assignment.study_id == study.id, Assignment.state.in_(OPEN_STATES)
        ),
    )


def _votes_here(session: Session, study: Study) -> int:
    """Count people's overall votes on pairs of every kind."""
    query = (
        select(func.count(Vote.id))
        .join(Assignment, Assignment.id == Vote.assignment_id)
        .where(
            Assignment.study_id == study.id,
            Vote.origin == "human",
            Vote.criterion == OVERALL,
            Vote.rev == 0,
        )
    )
    return session.scalar(query) or 0


def _count(session: Session, column: Any, *conditions: Any) -> int:
    return session.scalar(select(func.count(column)).where(*conditions)) or 0
