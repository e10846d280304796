"""Gather a ``Report`` from databases and the folders of the runs that filled them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from arena import studies
from arena.catalogue import system_label
from arena.database import Database, open_database, shown
from arena.models import Prompt, Run, Score, System, Video
from arena.report_data import study_report
from arena.tally import collected_votes, imported_votes, systems_by_id
from evaluation import provenance
from evaluation.bench.manifest import FILE, Manifest
from evaluation.errors import EvaluationError
from evaluation.report.ablations import ablation_section
from evaluation.report.beside_votes import beside_votes, unanswered
from evaluation.report.costs import read_records, system_costs
from evaluation.report.examples import find_examples
from evaluation.report.metric_tables import Groups, MetricNames, ScoreRow, compare, metric_values, newest
from evaluation.report.model import (
    AblationSection,
    AutomaticComparison,
    BesideVotes,
    Example,
    MetricAgreement,
    Report,
    StudySection,
    SystemCost,
)
from evaluation.report.sentences import comparison_answer, headline, study_answer
from evaluation.report.sources import Source
from evaluation.report.study_protocol import protocol_fields
from evaluation.scoring import split_set_signature

SHOWN_RUNS = 20
TITLE = "MagicVideo Arena report"


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one source says."""

    studies: list[StudySection]
    ablations: list[AblationSection]
    rows: list[ScoreRow]
    automatic: list[AutomaticComparison]
    beside: list[BesideVotes]
    agreement: list[MetricAgreement]
    costs: list[SystemCost]
    examples: list[Example]
    remarks: list[str]
    provenance: dict[str, Any]


def build_report(
    database: Database,
    study_names: Sequence[str] = (),
    *,
    folders: Sequence[Path] = (),
    vote_command: str | None = None,
    title: str = TITLE,
) -> Report:
    """Read studies, scores and examples of ``database``, and what the runs in ``folders`` left.

    Args:
        study_names: studies to show; all of them by default.
        folders: of benches and ablations whose videos are in the database.
        vote_command: what the report tells a reader to run who wants to vote.

    Raises:
        arena.errors.ArenaError: a study does not exist.
        EvaluationError: a stored video cannot be decoded, or a folder's files are damaged.
    """
    return _assembled([_part(database, "", study_names, folders, vote_command)], title)


def report_of(sources: Sequence[Source], study_names: Sequence[str] = (), *, title: str = TITLE) -> Report:
    """Build one report of several sources; names of systems and studies then begin with their source's.

    Raises:
        arena.errors.ArenaError: a database cannot be used.
        EvaluationError: no source has a study that was asked for, or see ``build_report``.
    """
    parts, missing = [], set(study_names)
    for source in sources:
        database = open_database(source.url)
        try:
            with database.reading() as session:
                known = [name for name in study_names if name in _all_studies(session)]
            missing -= set(known)
            if study_names and not known and len(sources) > 1:
                continue
            asked = known if len(sources) > 1 else study_names
            prefix = f"{source.name}: " if len(sources) > 1 else ""
            parts.append(_part(database, prefix, asked, source.folders, None))
        finally:
            database.close()
    if missing and len(sources) > 1:
        raise EvaluationError(f"none of the databases has a study {sorted(missing)[0]!r}")
    return _assembled(parts, title)


def _part(
    database: Database,
    prefix: str,
    study_names: Sequence[str],
    folders: Sequence[Path],
    vote_command: str | None,
) -> _Part:
    url = shown(database.url)
    command = vote_command or f"magicvideo arena serve --db {url}"
    with database.reading() as session:
        sections = [_study_section(session, name, command) for name in study_names or _all_studies(session)]
        rows = _score_rows(session)
        groups, _ = newest(rows)
        names = _metric_names({row.metric for row in rows})
        ablations = [found for folder in folders if (found := ablation_section(folder, sections)) is not None]
        baseline = _baseline(sections, ablations, {system for system, _ in groups})
        beside, agreement = _beside_votes(session, sections, groups, names)
        part = _Part(
            studies=sections,
            ablations=ablations,
            rows=rows,
            automatic=_without_arms(compare(groups, baseline, names) if baseline else [], ablations),
            beside=beside,
            agreement=agreement,
            costs=system_costs(record for folder in folders for record in read_records(folder)),
            examples=find_examples(session),
            remarks=_remarks(session, sections, folders),
            provenance=_provenance(session, url, folders),
        )
    return _prefixed(part, prefix) if prefix else part


def _assembled(parts: Sequence[_Part], title: str) -> Report:
    groups, whole_sets = newest([row for part in parts for row in part.rows])
    sections = [study for part in parts for study in part.studies]
    ablations = [ablation for part in parts for ablation in part.ablations]
    compared = [comparison_answer(part.automatic) for part in parts]
    answers = [ablation.answer for ablation in ablations] + [answer for answer in compared if answer]
    agreement = tuple(item for part in parts for item in part.agreement)
    videos = sum(part.provenance["videos"] for part in parts)
    return Report(
        title=title,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=headline(sections, answers, videos=videos, scores=len(groups) + len(whole_sets)),
        answers=tuple(answers),
        remarks=tuple(dict.fromkeys(remark for part in parts for remark in part.remarks)),
        studies=tuple(sections),
        ablations=tuple(ablations),
        metrics=tuple(
            metric_values(groups, whole_sets, _metric_names({metric for _, metric in groups | whole_sets}))
        ),
        automatic=tuple(item for part in parts for item in part.automatic),
        beside_votes=tuple(item for part in parts for item in part.beside),
        agreement=agreement,
        unanswered=unanswered(bool(groups), agreement),
        costs=tuple(item for part in parts for item in part.costs),
        examples=tuple(item for part in parts for item in part.examples),
        provenance={
            "videos": videos,
            "program": provenance.collect().to_dict(),
            "sources": [part.provenance for part in parts],
        },
    )


def _prefixed(part: _Part, prefix: str) -> _Part:
    """Put the source's name before those of its systems and studies."""
    return replace(
        part,
        studies=[replace(item, name=prefix + item.name) for item in part.studies],
        ablations=[replace(item, name=prefix + item.name) for item in part.ablations],
        # Ids of videos are the database's own.
        rows=[
            replace(row, system=prefix + row.system, video=None if row.video is None else (prefix, row.video))
            for row in part.rows
        ],
        automatic=[
            replace(item, candidate=prefix + item.candidate, competitor=prefix + item.competitor)
            for item in part.automatic
        ],
        beside=[replace(item, study=prefix + item.study) for item in part.beside],
        agreement=[replace(item, study=prefix + item.study) for item in part.agreement],
        costs=[replace(item, system=prefix + item.system) for item in part.costs],
        examples=[
            replace(item, strips=tuple(replace(strip, system=prefix + strip.system) for strip in item.strips))
            for item in part.examples
        ],
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
        ranking=data["ranking"],
        agreement=data["agreement"],
        protocol=protocol_fields(data["kind"], data["design"], data["data_origin"]),
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


def _metric_names(measured: set[str]) -> dict[str, MetricNames]:
    """Return how the measured metrics are shown, in the registry's order; unknown ones describe only."""
    from metrics.errors import MetricError
    from metrics.registry import METRICS, metric_info

    names = {}
    for name in [*(known for known in METRICS if known in measured), *sorted(measured - METRICS.keys())]:
        try:
            info = metric_info(name)
        except MetricError:
            names[name] = MetricNames(name, "neutral", "")
        else:
            names[name] = MetricNames(info.title, info.direction, info.unit or "")
    return names


def _baseline(
    sections: Sequence[StudySection],
    ablations: Sequence[AblationSection],
    systems: set[str],
) -> str | None:
    """Choose whom to compare: an ablation's full system, else a study's candidate, else a full arm, else the first."""
    if ablations and "full" in systems:
        return "full"
    planned = [study.design["planned"].get("candidate") for study in sections]
    voted = [item["candidate"] for study in sections for item in study.comparisons]
    arms = [name for name in sorted(systems) if name.endswith(":full")]
    return next((name for name in (*planned, *voted, *arms, *sorted(systems)) if name in systems), None)


def _without_arms(
    compared: Sequence[AutomaticComparison], ablations: Sequence[AblationSection]
) -> list[AutomaticComparison]:
    """Leave out what an ablation's own table says better."""
    arms = {arm for ablation in ablations for arm in ablation.result["arms"]}
    return [item for item in compared if item.competitor.partition("@")[0] not in arms]


def _beside_votes(
    session: Session, sections: Sequence[StudySection], groups: Groups, names: dict[str, MetricNames]
) -> tuple[list[BesideVotes], list[MetricAgreement]]:
    beside: list[BesideVotes] = []
    agreement: list[MetricAgreement] = []
    labels = {number: system_label(system) for number, system in systems_by_id(session).items()}
    scored = {system for system, _ in groups}
    for section in sections:
        if not any({item["candidate"], item["competitor"]} <= scored for item in section.comparisons):
            continue
        study = studies.get_study(session, section.name)
        votes = collected_votes(session, study) if study.kind == "arena" else imported_votes(session, study)
        wanted = {vote.prompt for vote in votes if vote.prompt is not None}
        texts = {
            number: text
            for number, text in session.execute(select(Prompt.id, Prompt.text))
            if number in wanted
        }
        rows, found = beside_votes(section, votes, groups, names, labels, texts)
        beside += rows
        agreement += found
    return beside, agreement


def _remarks(session: Session, sections: Sequence[StudySection], folders: Sequence[Path]) -> list[str]:
    remarks = []
    voting = [section.name for section in sections if section.state == "open"]
    if voting and session.scalar(select(func.count(Video.id))):
        remarks.append(
            "Example clips name their systems: keep this page from people who still vote in "
            f"{', '.join(voting)}."
        )
    unfinished = session.scalars(select(System.name).join(Run).where(Run.state == "running").distinct()).all()
    if unfinished:
        remarks.append(
            f"A generation run of {', '.join(unfinished)} is unfinished: its videos are those made so far."
        )
    for folder in folders:
        runs = Manifest(folder).runs
        remarks += [f"{folder.name}: {note}" for note in (runs[-1].get("notes", []) if runs else [])]
    return remarks


def _provenance(session: Session, url: str, folders: Sequence[Path]) -> dict[str, Any]:
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
    manifests = [
        {"folder": folder.name, **{key: run.get(key) for key in MANIFEST_KEYS}}
        for folder in folders
        if (folder / FILE).exists()
        for run in Manifest(folder).runs[-SHOWN_RUNS:]
    ]
    videos = session.scalar(select(func.count(Video.id))) or 0
    return {"database": url, "videos": videos, "runs": runs, "manifests": manifests}


MANIFEST_KEYS = (
    "id",
    "file",
    "state",
    "started_at",
    "git_commit",
    "git_dirty",
    "config_digest",
    "prompt_digest",
    "prompts",
    "seeds",
    "devices",
    "metrics",
    "machine",
)
