"""Run an ablation: its arms as a bench, then the comparison, example clips and a study if wanted."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from arena import catalogue, report_data, studies
from arena.database import Database, shown
from arena.errors import StudyError
from arena.protocol import Protocol
from evaluation.ablation.analysis import AblationResult, ArmRow, analyse
from evaluation.ablation.arms import FULL, arms_of, systems_of
from evaluation.ablation.cost import cost_of
from evaluation.ablation.outputs import RESULT, write_result
from evaluation.ablation.specification import AblationSpec, read_ablation
from evaluation.bench.manifest import Manifest
from evaluation.bench.run import Workspace, all_records, opened, run_workspace
from evaluation.clips import side_by_side
from evaluation.engine.record import Job, VideoRecord
from evaluation.engine.store import VideoStore, open_store
from evaluation.errors import EvaluationError
from evaluation.scoring import score_system


def run_ablation(
    file: Path, *, study: str | None = None, votes_per_pair: int | None = None, progress: bool = True
) -> AblationResult:
    """Do what an ablation file asks for, as far as it is not done, and write the result into its folder.

    Args:
        file: see ``evaluation.ablation.specification.TEMPLATE``.
        study: name of a study of the full system against each arm, made or read.
        votes_per_pair: of that study while it is a draft; as it is, or 1, if None.
        progress: show bars.

    Raises:
        EvaluationError: a bad file, or whatever ends a bench.
    """
    spec = read_ablation(file)
    arms = arms_of(spec)
    workspace = Workspace.of(spec, systems_of(spec, arms), file)
    study = study or _earlier_study(workspace.folder)
    bench = run_workspace(workspace, file, progress=progress)
    store = open_store(workspace.store_place)
    systems = workspace.built()
    records = [record for record in all_records(workspace, systems, store) if record is not None]
    with opened(workspace.database_url) as database:
        notes = _score_matched(workspace, database, records, progress)
        with database.reading() as session:
            scores = catalogue.scores(session, systems=[system.name for system in systems])
        if not any(score["value"] is not None for score in scores):
            raise EvaluationError(f"no video has a value: {'; '.join(bench.notes[:3]) or 'none was made'}")
        ends = [record for record in records if "@" not in record.system]
        result = analyse(spec, arms, scores, cost_of(ends), prompts=len(workspace.prompts))
        if study is not None:
            competitors = [arm.name for arm in arms[1:]]
            with database.session() as session:
                notes += _drafted(session, study, competitors, votes_per_pair, workspace.prompts)
            with database.reading() as session:
                result = replace(result, rows=tuple(_with_people(session, study, result.rows)))
    examples = _examples(spec, scores, result, systems, store, workspace.folder)
    run = Manifest(workspace.folder).runs[-1]
    result = replace(
        result,
        notes=(*bench.notes, *notes, *result.notes),
        examples=tuple(examples),
        study=study,
        reproduce={
            "command": f"magicvideo ablate {file.name}" + (f" --study {study}" if study else ""),
            "database": shown(workspace.database_url),
            **{key: run[key] for key in ("id", "git_commit", "git_dirty", "packages", "config_digest")},
        },
    )
    write_result(workspace.folder, result)
    return result


def _score_matched(
    workspace: Workspace, database: Database, records: Sequence[VideoRecord], progress: bool
) -> list[str]:
    """Measure once more at the lowest rate of all arms, if they differ."""
    ends = [record for record in records if record.outcome == "made" and "@" not in record.system]
    rates = sorted({record.fps for record in ends if record.fps})
    if len(rates) < 2:
        return []
    spec = workspace.spec
    reference = workspace.reference()
    options = spec.scoring.options(workspace.base, temporal_sampling=f"fps:{rates[0]:g}")
    with workspace.scoring_pool() as pool:
        for name in dict.fromkeys(record.system for record in ends):
            score_system(
                database,
                name,
                metrics=spec.metrics,
                reference=reference,
                options=options,
                progress=progress,
                pool=pool,
            )
    return [
        f"arms have {', '.join(f'{rate:g}' for rate in rates)} frames per second: metrics of time are given at their "
        f"own rate and at {rates[0]:g}"
    ]


def _earlier_study(folder: Path) -> str | None:
    """Return the study that an earlier run of this ablation drafted."""
    try:
        found: str | None = json.loads((folder / RESULT).read_text("utf-8")).get("study")
    except (OSError, ValueError):
        return None  # written again at the end of this run
    return found


def _drafted(
    session: Session, name: str, arms: Sequence[str], votes_per_pair: int | None, prompts: Sequence[str]
) -> list[str]:
    """Draft the study of full against the arms; one that is open stays as it is.

    Returns:
        Sentences on arms that an opened study does not hold.

    Raises:
        EvaluationError: the name belongs to a study of something else.
    """
    known = next((item for item in studies.list_studies(session) if item.slug == name), None)
    protocol = Protocol(candidate=FULL, competitors=tuple(arms), votes_per_pair=votes_per_pair or 1)
    if known is None:
        studies.create_study(session, name, protocol, prompts=prompts)
        return []
    if known.kind != "arena" or known.protocol["candidate"] != FULL:
        raise EvaluationError(
            f"the study {name!r} is not one of {FULL} against its arms; choose another name"
        )
    planned = studies.study_protocol(known)
    if known.state == "draft":
        wanted = votes_per_pair or planned.votes_per_pair
        planned = replace(planned, competitors=tuple(arms), votes_per_pair=wanted)
        studies.create_study(session, name, planned, prompts=prompts, replace=True)
        return []
    later = [arm for arm in arms if arm not in planned.competitors]
    return (
        [f"the study {name} was opened before {', '.join(later)} came: nobody is asked about it"]
        if later
        else []
    )


def _with_people(session: Session, study: str, rows: Sequence[ArmRow]) -> list[ArmRow]:
    """Put a study's results beside the automatic ones."""
    try:
        comparisons = report_data.study_report(session, study)["comparisons"]
    except StudyError as error:
        raise EvaluationError(str(error)) from error
    wanted = ("good", "same", "bad", "ratio", "interval", "n")
    people: Mapping[str, dict[str, Any]] = {
        row["competitor"]: {key: row[key] for key in wanted}
        for row in comparisons
        if row["criterion"] == "overall" and row["n"]
    }
    return [replace(row, human=people.get(row.arm)) if row.at == "end" else row for row in rows]


def _examples(
    spec: AblationSpec,
    scores: Sequence[Mapping[str, Any]],
    result: AblationResult,
    systems: Sequence[Any],
    store: VideoStore,
    folder: Path,
) -> list[dict[str, Any]]:
    """Write, for each arm, the prompts on which the first metric sees full lose most, middling, and win most."""
    by_name = {system.name: system for system in systems}
    seed = spec.seeds[0]
    examples = []
    judged = [row for row in result.rows if row.at == "end" and row.preference is not None]
    first = judged[0].metric if judged and spec.examples else None
    for row in {row.arm: row for row in reversed(judged) if row.metric == first}.values():
        advantages = _advantages(scores, row, seed)
        order = sorted(advantages, key=lambda prompt: advantages[prompt])
        places = {"worst": 0, "median": len(order) // 2, "best": len(order) - 1}
        for which, place in places.items() if order else ():
            prompt = order[place]
            jobs = [Job.of(by_name[name], prompt, seed) for name in (FULL, row.arm)]
            target = folder / "examples" / f"{jobs[1].folder}-{which}.mp4"
            with store.opened(jobs[0]) as left, store.opened(jobs[1]) as right:
                side_by_side(left, right, target)
            examples.append(
                {
                    "arm": row.arm,
                    "metric": row.metric,
                    "which": which,
                    "prompt": prompt,
                    "seed": seed,
                    "advantage": advantages[prompt],
                    "file": str(target.relative_to(folder)),
                }
            )
    return examples


def _advantages(scores: Sequence[Mapping[str, Any]], row: ArmRow, seed: int) -> dict[str, float]:
    values: dict[str, dict[str, float]] = {FULL: {}, row.arm: {}}
    for score in scores:
        same = (score["metric"], score["signature"], score["seed"]) == (row.metric, row.signature, seed)
        if same and score["system"] in values and score["value"] is not None:
            values[score["system"]][score["prompt"]] = score["value"]
    sign = -1 if row.direction == "lower" else 1
    return {
        prompt: sign * (value - values[row.arm][prompt])
        for prompt, value in values[FULL].items()
        if prompt in values[row.arm]
    }
