"""Make a study, show it, open it, close it, and let people in."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from arena import audit, media
from arena.catalogue import find_system, system_label
from arena.columns import new_token, now_utc, token_hash
from arena.database import Database
from arena.errors import StudyError, VoteRefused
from arena.models import (
    OPEN_STATES,
    Assignment,
    Enrolment,
    Evaluator,
    Pair,
    Presentation,
    Prompt,
    Study,
    StudyPrompt,
    StudySystem,
    System,
    Video,
)
from arena.protocol import Protocol, protocol_digest
from arena.tally import count_human_votes

MAX_BOX = (1920, 1080)


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """A newly let in evaluator; the token is shown this once."""

    token: str = field(repr=False)
    evaluator_id: int
    pseudonym: str


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """How far a study has come; imported studies have votes but no pairs."""

    slug: str
    kind: str
    state: str
    systems: tuple[str, ...]
    pairs: int
    prompts: int
    target_votes: int
    votes: int
    evaluators: int
    open_tasks: int


def create_study(
    session: Session, slug: str, protocol: Protocol, *, prompts: Sequence[str] | None = None
) -> Study:
    """Draft a study over the videos that candidate and competitors have of the same prompts.

    The n-th video of one system, ordered by seed, meets the n-th of the other. Creating the same study again
    returns it.

    Args:
        session: An open session.
        slug: Name of the study.
        protocol: What it lays down.
        prompts: Texts to restrict it to; all shared prompts otherwise.

    Raises:
        StudyError: Another protocol has this name, or a competitor shares no prompt with the candidate.
    """
    plan = protocol.to_dict()
    existing = session.scalar(select(Study).where(Study.slug == slug))
    if existing is not None:
        if existing.protocol_sha256 == protocol_digest(plan):
            return existing
        raise StudyError(f"there is a study {slug!r} with another protocol already: choose another name")
    candidate = find_system(session, protocol.candidate)
    competitors = [find_system(session, name) for name in protocol.competitors]
    study = add_study(session, slug, kind="arena", protocol=plan, seed=protocol.seed)
    session.add(StudySystem(study_id=study.id, system_id=candidate.id, role="candidate"))
    session.add_all(
        StudySystem(study_id=study.id, system_id=system.id, role="competitor") for system in competitors
    )
    session.flush()
    ours = _videos_by_prompt(session, candidate.id, prompts)
    chosen: dict[str, list[tuple[Video, Video]]] = {}
    for system in competitors:
        theirs = _videos_by_prompt(session, system.id, prompts)
        shared = [pair for prompt in ours if prompt in theirs for pair in zip(ours[prompt], theirs[prompt])]  # noqa: B905
        if not shared:
            raise StudyError(
                f"{protocol.candidate!r} and {system_label(system)!r} have no videos of the same prompt"
            )
        chosen[system_label(system)] = shared
    _add_pairs(session, study, protocol, (pair for pairs in chosen.values() for pair in pairs))
    audit.record(session, "owner", "study created", slug, protocol_sha256=study.protocol_sha256)
    return study


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


def open_study(database: Database, slug: str, progress: Callable[[int, int], None] | None = None) -> Study:
    """Make the blinded copies a study lacks, then let people vote on it; may be interrupted and repeated.

    Args:
        database: Where the study is; copies are made outside any transaction.
        slug: Name of the study.
        progress: Called with copies made and copies needed.
    """
    with database.reading() as session:
        study = get_study(session, slug)
        if study.kind != "arena":
            raise StudyError(f"study {slug!r} was imported: nobody can vote on it here")
        if study.state not in ("draft", "paused", "open"):
            raise StudyError(f"study {slug!r} is {study.state} and cannot be opened again")
        videos = _shown_videos(session, study.id)
        done = set(session.scalars(select(Presentation.video_id).where(Presentation.study_id == study.id)))
    box = presentation_box(videos)
    missing = [video for video in videos if video.id not in done]
    for number, video in enumerate(missing, start=1):
        _present(database, study.id, video, box)
        if progress is not None:
            progress(number, len(missing))
    return _move(database, slug, "open")


def presentation_box(videos: Sequence[Video]) -> tuple[int, int]:
    """Return the even width and height into which every video fits, at most 1920x1080."""
    width = min(MAX_BOX[0], max(video.width for video in videos))
    height = min(MAX_BOX[1], max(video.height for video in videos))
    return width + width % 2, height + height % 2


def _shown_videos(session: Session, study_id: int) -> list[Video]:
    shown = select(Pair.video_a).where(Pair.study_id == study_id)
    against = select(Pair.video_b).where(Pair.study_id == study_id)
    return list(session.scalars(select(Video).where(Video.id.in_(shown.union(against))).order_by(Video.id)))


def _present(database: Database, study_id: int, video: Video, box: tuple[int, int]) -> None:
    with database.reading() as session:
        original = media.read(session, video.media_sha256)
    copy = media.canonical(original, width=box[0], height=box[1])
    changes = {
        "box": list(box),
        "original_size": [video.width, video.height],
        "original_sha256": video.media_sha256,
        "removed": ["metadata", "encoder comments", "audio"],
    }
    with database.session() as session:
        sha256 = media.store(session, copy)
        session.merge(
            Presentation(study_id=study_id, video_id=video.id, media_sha256=sha256, changes=changes)
        )


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


def enrol(
    session: Session,
    slug: str,
    *,
    pseudonym: str | None = None,
    origin: str = "human",
    expires_at: datetime | None = None,
) -> Enrolled:
    """Let an evaluator into a study and return the token that proves it; only its hash is kept."""
    study = get_study(session, slug)
    if study.kind != "arena" or study.state == "closed":
        raise StudyError(f"study {slug!r} takes no evaluators: it is {study.kind} and {study.state}")
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
            quota=study.protocol.get("quota"),
            cohort="",
            expires_at=expires_at,
            created_at=now_utc(),
        )
    )
    session.flush()
    return Enrolled(token=token, evaluator_id=evaluator.id, pseudonym=evaluator.pseudonym)


def find_enrolment(session: Session, token: str, *, now: datetime | None = None) -> Enrolment:
    """Return whose token this is, with ``.study`` and ``.evaluator``.

    Raises:
        VoteRefused: The token is unknown, revoked or expired.
    """
    query = select(Enrolment).where(Enrolment.token_hash == token_hash(token))
    enrolment = session.scalar(query)
    if enrolment is None or enrolment.state in ("revoked", "excluded"):
        raise VoteRefused("this link is not valid: ask for a new one")
    if enrolment.expires_at is not None and enrolment.expires_at < (now or now_utc()):
        raise VoteRefused("this link has expired: ask for a new one")
    return enrolment


def study_status(session: Session, slug: str) -> StudyStatus:
    """Count what a study has of pairs, people, open tasks and human votes."""
    study = get_study(session, slug)
    pairs, target = session.execute(
        select(func.count(Pair.id), func.coalesce(func.sum(Pair.target_votes), 0)).where(
            Pair.study_id == study.id
        )
    ).one()
    systems = session.scalars(
        select(System)
        .join(StudySystem, StudySystem.system_id == System.id)
        .where(StudySystem.study_id == study.id)
        .order_by(StudySystem.role, System.name)
    )
    return StudyStatus(
        slug=study.slug,
        kind=study.kind,
        state=study.state,
        systems=tuple(system_label(system) for system in systems),
        pairs=pairs,
        prompts=_count(session, StudyPrompt.prompt_id, StudyPrompt.study_id == study.id),
        target_votes=target,
        votes=count_human_votes(session, study),
        evaluators=_count(session, Enrolment.evaluator_id, Enrolment.study_id == study.id),
        open_tasks=_count(
            session, Assignment.id, Assignment.study_id == study.id, Assignment.state.in_(OPEN_STATES)
        ),
    )


def _count(session: Session, column: Any, *conditions: Any) -> int:
    return session.scalar(select(func.count(column)).where(*conditions)) or 0
