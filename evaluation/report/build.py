"""Gather a ``Report`` from a database."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from arena import media, studies
from arena.catalogue import system_label
from arena.database import Database, shown
from arena.models import Prompt, Run, Score, System, Video
from arena.report_data import study_report
from evaluation import provenance
from evaluation.report.frames import example_frames
from evaluation.report.metric_tables import MetricNames, ScoreRow, compare, metric_values, newest
from evaluation.report.model import Example, Report, Strip, StudySection
from evaluation.report.sentences import headline, study_answer
from evaluation.scoring import split_set_signature

EXAMPLE_PROMPTS = 4
EXAMPLE_SYSTEMS = 8
SHOWN_RUNS = 20


def build_report(
    database: Database,
    study_names: Sequence[str] = (),
    *,
    vote_command: str | None = None,
    title: str = "MagicVideo Arena report",
) -> Report:
    """Read studies, scores and example frames of ``database``.

    Args:
        study_names: studies to show; all of them by default.
        vote_command: what the report tells a reader to run who wants to vote.

    Raises:
        arena.errors.ArenaError: a study does not exist.
        EvaluationError: a stored video cannot be decoded.
    """
    url = shown(database.url)
    command = vote_command or f"magicvideo arena serve --db {url}"
    with database.reading() as session:
        sections = [_study_section(session, name, command) for name in study_names or _all_studies(session)]
        groups, whole_sets = newest(_score_rows(session))
        names = _metric_names()
        baseline = _baseline(session, {system for system, _ in groups})
        videos = session.scalar(select(func.count(Video.id))) or 0
        return Report(
            title=title,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            headline=headline(sections, videos=videos, scores=len(groups) + len(whole_sets)),
            remarks=tuple(_remarks(session, sections)),
            studies=tuple(sections),
            metrics=tuple(metric_values(groups, whole_sets, names)),
            automatic=tuple(compare(groups, baseline, names)) if baseline else (),
            automatic_baseline=baseline,
            examples=tuple(_examples(session)),
            provenance=_provenance(session, url, videos),
        )


def _all_studies(session: Session) -> list[str]:
    return [study.slug for study in studies.list_studies(session)]


def _study_section(session: Session, name: str, vote_command: str) -> StudySection:
    data = study_report(session, name)
    comparisons = tuple(data["comparisons"])
    planned = data["design"]["planned"].get("competitors", ())
    return StudySection(
        name=name,
        state=data["state"],
        answer=study_answer(name, data["state"], comparisons, vote_command),
        votes=sum(item["n"] for item in comparisons),
        data_origin=data["data_origin"],
        design=data["design"],
        comparisons=comparisons,
        unvoted=tuple(name for name in planned if name not in {item["competitor"] for item in comparisons}),
        warnings=tuple(data["warnings"]),
    )


def _score_rows(session: Session) -> list[ScoreRow]:
    """Return every score of a video or system, oldest first."""
    columns = (Score.metric, Score.signature, Score.value, Score.reason)
    labels = {system.id: system_label(system) for system in session.scalars(select(System))}
    of_videos = (
        select(Score.id, Video.system_id, Video.id, Prompt.text, *columns)
        .join(Video, Score.video_id == Video.id)
        .join(Prompt, Video.prompt_id == Prompt.id)
    )
    of_systems = select(Score.id, Score.system_id, *columns).where(Score.system_id.is_not(None))
    rows: list[tuple[int, ScoreRow]] = [
        (number, ScoreRow(labels[system], video, prompt, metric, signature, value, reason))
        for number, system, video, prompt, metric, signature, value, reason in session.execute(of_videos)
    ]
    for number, system, metric, signature, value, reason in session.execute(of_systems):
        measured, n = split_set_signature(signature)
        rows.append((number, ScoreRow(labels[system or 0], None, None, metric, measured, value, reason, n)))
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def _metric_names() -> dict[str, MetricNames]:
    from metrics.registry import METRICS

    return {name: MetricNames(info.title, info.direction, info.unit or "") for name, info in METRICS.items()}


def _baseline(session: Session, systems: Collection[str]) -> str | None:
    """Choose whom to compare: the candidate of the newest study that has scores, else a ``...:full`` arm."""
    for study in reversed(studies.list_studies(session)):
        candidate = study.protocol.get("candidate")
        if candidate in systems:
            return str(candidate)
    return next((name for name in sorted(systems) if name.endswith(":full")), None)


def _examples(session: Session) -> list[Example]:
    """Show the prompts most systems have, in the order they came in, and the lowest seed of each."""
    counts = (
        select(Video.prompt_id)
        .group_by(Video.prompt_id)
        .order_by(func.count(Video.system_id.distinct()).desc(), Video.prompt_id)
        .limit(EXAMPLE_PROMPTS)
    )
    return [_example(session, prompt_id) for prompt_id in session.scalars(counts).all()]


def _example(session: Session, prompt_id: int) -> Example:
    rows = session.scalars(
        select(Video).where(Video.prompt_id == prompt_id).order_by(Video.system_id, Video.seed, Video.id)
    ).all()
    first: dict[str, Video] = {}
    for video in rows:
        first.setdefault(system_label(video.system), video)
    chosen = list(first.values())[:EXAMPLE_SYSTEMS]
    return Example(prompt=chosen[0].prompt.text, strips=tuple(_strip(session, video) for video in chosen))


def _strip(session: Session, video: Video) -> Strip:
    system = system_label(video.system)
    frames = example_frames(
        media.read(session, video.media_sha256), video.frames, f"{system} for {video.prompt.text!r}"
    )
    fps = video.fps_num / video.fps_den
    geometry = f"{video.width}×{video.height}, {video.frames} frames, {fps:g} fps, seed {video.seed}"
    return Strip(system, geometry, tuple(frames), tuple(frames.values()))


def _remarks(session: Session, sections: Sequence[StudySection]) -> list[str]:
    remarks = []
    voting = [section.name for section in sections if section.state == "open"]
    if voting and session.scalar(select(func.count(Video.id))):
        remarks.append(
            "Example frames name their systems: keep this page from people who still vote in "
            f"{', '.join(voting)}."
        )
    unfinished = session.scalars(select(System.name).join(Run).where(Run.state == "running").distinct()).all()
    if unfinished:
        remarks.append(
            f"A generation run of {', '.join(unfinished)} is unfinished: its videos are those made so far."
        )
    return remarks


def _provenance(session: Session, url: str, videos: int) -> dict[str, Any]:
    rows = session.execute(
        select(Run, System.name)
        .join(System, Run.system_id == System.id)
        .order_by(Run.id.desc())
        .limit(SHOWN_RUNS)
    ).all()
    runs = [
        {
            "system": name,
            "state": run.state,
            "seed": run.seed,
            "device": run.device,
            "config_digest": run.config_digest,
            "git_commit": run.git_commit,
            "git_dirty": run.git_dirty,
            "packages": run.packages,
            "created_at": run.created_at.isoformat(timespec="seconds"),
        }
        for run, name in reversed(rows)
    ]
    return {"database": url, "videos": videos, "runs": runs, "program": provenance.collect().to_dict()}
