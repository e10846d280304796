"""Systems, prompts, runs, videos and scores: what is known before anybody votes."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from arena import media
from arena.columns import now_utc
from arena.errors import ArenaError, MediaError
from arena.models import Media, Prompt, Run, Score, System, Video
from arena.upsert import insert_missing


def system_label(system: System) -> str:
    """Return how a system is called on the command line and in reports: NAME or NAME@VERSION."""
    return f"{system.name}@{system.version}" if system.version else system.name


def ensure_system(
    session: Session, name: str, *, version: str = "", config_digest: str | None = None
) -> System:
    """Return the system of this name and version, made if it is new."""
    if not name.strip():
        raise ArenaError("a system needs a name")
    insert_missing(session, System, {"name": name, "version": version, "config_digest": config_digest})
    return session.scalars(select(System).where(System.name == name, System.version == version)).one()


def find_system(session: Session, label: str) -> System:
    """Return the system called NAME or NAME@VERSION, or say which ones there are."""
    known = {system_label(system): system for system in session.scalars(select(System).order_by(System.name))}
    if label not in known:
        listed = ", ".join(known) or "none yet"
        raise ArenaError(f"there is no system {label!r} in the database: known systems are {listed}")
    return known[label]


def ensure_prompt(session: Session, text: str) -> Prompt:
    """Return the prompt of this exact text, made if it is new."""
    if not text.strip():
        raise ArenaError("a prompt cannot be empty")
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    insert_missing(session, Prompt, {"text": text, "text_sha256": digest})
    return session.scalars(select(Prompt).where(Prompt.text_sha256 == digest)).one()


def start_run(
    session: Session,
    system: System,
    *,
    config_digest: str,
    seed: int,
    config: Mapping[str, Any] | None = None,
    git_commit: str | None = None,
    git_dirty: bool | None = None,
    packages: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> Run:
    """Record that a system begins to make videos, with what it takes to make them again."""
    run = Run(
        system_id=system.id,
        config_digest=config_digest,
        config=dict(config or {}),
        seed=seed,
        git_commit=git_commit,
        git_dirty=git_dirty,
        packages=dict(packages or {}),
        device=device,
        state="running",
        created_at=now_utc(),
    )
    session.add(run)
    session.flush()
    return run


def finish_run(session: Session, run: Run, state: str = "finished") -> None:
    """Record that a run is ``finished`` or ``failed``."""
    if state not in ("finished", "failed"):
        raise ValueError(f"state must be 'finished' or 'failed', received {state!r}")
    stored = session.get_one(Run, run.id)
    stored.state, stored.finished_at = state, now_utc()
    session.flush()


def add_video(
    session: Session,
    system: System,
    prompt: Prompt,
    path: Path,
    *,
    seed: int = 0,
    variant: str = "",
    run: Run | None = None,
    keep_at: str | None = None,
    kept_at: str | None = None,
) -> Video:
    """Probe a video file and keep it as what ``system`` made of ``prompt``.

    Args:
        session: An open session.
        system: What made it.
        prompt: What it was made of.
        path: The file.
        seed: Its seed.
        variant: Tells several videos of one system, prompt and seed apart.
        run: In which it was made.
        keep_at: As for `arena.media.store`.
        kept_at: URL at which the same bytes are already; the database then names the URL and holds no copy.

    Raises:
        MediaError: The file is no video that can be shown.
        ArenaError: Another video is stored for the same system, prompt, seed and variant.
    """
    clip = media.probe(path)
    sha256 = (
        media.store(session, clip.path, keep_at=keep_at) if kept_at is None else _at(session, clip, kept_at)
    )
    values = {
        "system_id": system.id,
        "prompt_id": prompt.id,
        "run_id": None if run is None else run.id,
        "seed": seed,
        "variant": variant,
        "media_sha256": sha256,
        "width": clip.width,
        "height": clip.height,
        "fps_num": clip.fps.numerator,
        "fps_den": clip.fps.denominator,
        "frames": clip.frames,
        "duration_ms": round(clip.seconds * 1000),
        "created_at": now_utc(),
    }
    insert_missing(session, Video, values)
    key = ("system_id", "prompt_id", "seed", "variant")
    video = session.scalars(select(Video).filter_by(**{name: values[name] for name in key})).one()
    if video.media_sha256 != sha256:
        raise ArenaError(
            f"{path}: {system_label(system)} already has another video for prompt {prompt.text!r},"
            f" seed {seed}: give this one another seed or another system version"
        )
    return video


def _at(session: Session, clip: media.Clip, url: str) -> str:
    """Enter bytes that are kept at a URL, and return their sha256."""
    try:
        with clip.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MediaError(f"{clip.path}: cannot read the video ({error.strerror})") from error
    values = {"sha256": sha256, "byte_size": clip.byte_size, "mime": "video/mp4", "created_at": now_utc()}
    insert_missing(session, Media, values | {"url": url})
    return sha256


def find_videos(session: Session, *, system: str | None = None, prompt: str | None = None) -> list[Video]:
    """Return videos in the order of prompt, system and seed, of one system or prompt if named."""
    query = select(Video).order_by(Video.prompt_id, Video.system_id, Video.seed, Video.variant)
    if system is not None:
        query = query.where(Video.system_id == find_system(session, system).id)
    if prompt is not None:
        query = query.where(Video.prompt_id.in_(select(Prompt.id).where(Prompt.text == prompt)))
    return list(session.scalars(query))


def add_score(
    session: Session,
    *,
    metric: str,
    signature: str,
    value: float | None,
    reason: str | None = None,
    video: Video | None = None,
    run: Run | None = None,
    system: System | None = None,
) -> Score:
    """Keep a metric's value on a video, run or system; the same metric and signature again replaces it.

    Args:
        session: An open session.
        metric: Name of the metric.
        signature: What makes two values comparable, such as "fvd|extractor:i3d|frames:16".
        value: A finite number, or None if it could not be computed.
        reason: Why there is no value; given exactly when ``value`` is None.
        video, run, system: What was measured; exactly one of them.
    """
    if value is not None and not math.isfinite(value):
        raise ArenaError(f"{metric}: {value} is no value to keep: give None and the reason instead")
    if (value is None) == (reason is None):
        raise ArenaError(f"{metric}: give either a value or the reason why there is none")
    subjects = {"video_id": video, "run_id": run, "system_id": system}
    given = {column: subject.id for column, subject in subjects.items() if subject is not None}
    if len(given) != 1:
        raise ArenaError(f"{metric}: a score belongs to exactly one video, run or system")
    key = {**given, "metric": metric, "signature": signature}
    values = {"value": value, "reason": reason, "created_at": now_utc()}
    insert_missing(session, Score, key | values)
    score = session.scalars(select(Score).filter_by(**key)).one()
    for name, content in values.items():
        setattr(score, name, content)
    session.flush()
    return score


def scores(session: Session, *, systems: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return every score as a row with its system, and its prompt and seed if it is a video's."""
    of_run, of_video = aliased(Run), aliased(Video)
    query = (
        select(Score, of_video, of_run)
        .outerjoin(of_video, of_video.id == Score.video_id)
        .outerjoin(of_run, of_run.id == Score.run_id)
        .order_by(Score.metric, Score.id)
    )
    named = {system.id: system_label(system) for system in session.scalars(select(System))}
    rows = []
    for score, video, run in session.execute(query).unique():
        system_id = score.system_id or (video or run).system_id
        if systems is not None and named[system_id] not in systems:
            continue
        rows.append(
            {
                "system": named[system_id],
                "prompt": video.prompt.text if video else None,
                "seed": video.seed if video else None,
                "video_id": score.video_id,
                "run_id": score.run_id,
                "metric": score.metric,
                "signature": score.signature,
                "value": score.value,
                "reason": score.reason,
            }
        )
    return rows
