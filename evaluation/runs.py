"""Generation runs: every video of system x prompt x seed, made once, kept in a folder and the database.

A video is known by its system's config digest, prompt and seed. Files appear whole or not at all, the
database row after the file; a killed run is finished by the same call, which makes only what is missing.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session
from tqdm import tqdm

from arena import catalogue
from arena.database import Database
from arena.models import Prompt, Run, Video
from arena.models import System as SystemRow
from evaluation.clips import sweep, write_clip
from evaluation.errors import EvaluationError
from evaluation.provenance import Provenance, collect
from evaluation.systems.base import System


@dataclass(frozen=True)
class Job:
    """One video to make."""

    system: System
    prompt: str
    seed: int

    def file(self, folder: Path) -> Path:
        """Return where the video is kept; the path names all that shapes it."""
        system = f"{_file_name(self.system.name)}-{self.system.config_digest[:12]}"
        prompt_digest = hashlib.sha256(self.prompt.encode()).hexdigest()[:8]
        return folder / system / f"{_file_name(self.prompt)[:60]}-{prompt_digest}-seed{self.seed}.mp4"


@dataclass(frozen=True)
class RunSummary:
    """What a run did: videos made now, videos recognised as made before."""

    made: int
    reused: int


def make_videos(
    database: Database,
    systems: Sequence[System],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    folder: Path,
    progress: bool = True,
) -> RunSummary:
    """Make every video of ``systems`` x ``prompts`` x ``seeds`` that is not in the database yet.

    All systems make a prompt before the next prompt begins, so that arms can share what they have in common.

    Raises:
        EvaluationError: no system, prompt or seed; an empty prompt; a system whose config differs from the
            one its earlier videos in this database were made with.
    """
    _check(systems, prompts, seeds)
    jobs = [Job(system, prompt, seed) for prompt in prompts for seed in seeds for system in systems]
    with database.reading() as session:
        _refuse_other_configs(session, systems)
        missing = [job for job in jobs if not _is_recorded(session, job)]
    provenance = collect()
    for job in tqdm(missing, desc="videos", unit="video", disable=not progress or not missing):
        path = job.file(folder)
        if not path.exists():
            clip = job.system.generate(job.prompt, job.seed)
            write_clip(path, clip.frames, clip.fps)
        with database.session() as session:
            _record(session, job, path, provenance)
    sweep(folder)
    with database.session() as session:
        _finish_runs(session, systems)
    return RunSummary(made=len(missing), reused=len(jobs) - len(missing))


def _check(systems: Sequence[System], prompts: Sequence[str], seeds: Sequence[int]) -> None:
    lists: dict[str, list[str]] = {
        "system": [system.name for system in systems],
        "prompt": list(prompts),
        "seed": [str(seed) for seed in seeds],
    }
    for name, values in lists.items():
        if not values:
            raise EvaluationError(f"nothing to generate: at least one {name} is needed")
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise EvaluationError(f"the {name} {twice[0]!r} is listed twice; list it once")
    if any(not prompt.strip() for prompt in prompts):
        raise EvaluationError("an empty prompt cannot be generated from; write what the video should show")


def _refuse_other_configs(session: Session, systems: Sequence[System]) -> None:
    for system in systems:
        known = session.scalars(select(SystemRow).where(SystemRow.name == system.name)).first()
        if known is not None and known.config_digest != system.config_digest:
            made = f"config {known.config_digest[:12]}" if known.config_digest else "an unknown config"
            raise EvaluationError(
                f"the database holds {system.name} made with {made}, this program makes config "
                f"{system.config_digest[:12]}; results of two configs do not mix: use another database or "
                "folder"
            )


def _is_recorded(session: Session, job: Job) -> bool:
    rows = (
        select(Video.id)
        .join(SystemRow, Video.system_id == SystemRow.id)
        .join(Prompt, Video.prompt_id == Prompt.id)
        .where(
            SystemRow.name == job.system.name,
            SystemRow.config_digest == job.system.config_digest,
            Prompt.text == job.prompt,
            Video.seed == job.seed,
        )
    )
    return session.execute(rows).first() is not None


def _record(session: Session, job: Job, path: Path, provenance: Provenance) -> None:
    system = catalogue.ensure_system(session, job.system.name, config_digest=job.system.config_digest)
    run = _open_run(session, system, job, provenance)
    prompt = catalogue.ensure_prompt(session, job.prompt)
    catalogue.add_video(session, system, prompt, path, seed=job.seed, run=run)


def _open_run(session: Session, system: SystemRow, job: Job, provenance: Provenance) -> Run:
    """Return the unfinished run of this system and seed made by the same program, or begin one."""
    unfinished = session.scalars(
        select(Run).where(
            Run.system_id == system.id,
            Run.config_digest == job.system.config_digest,
            Run.seed == job.seed,
            Run.state == "running",
        )
    )
    for run in unfinished:
        if (run.git_commit, run.git_dirty, run.packages, run.device) == (
            provenance.git_commit,
            provenance.git_dirty,
            provenance.packages,
            job.system.device,
        ):
            return run
    return catalogue.start_run(
        session,
        system,
        config_digest=job.system.config_digest,
        seed=job.seed,
        config=dict(job.system.config),
        git_commit=provenance.git_commit,
        git_dirty=provenance.git_dirty,
        packages=provenance.packages,
        device=job.system.device,
    )


def _finish_runs(session: Session, systems: Iterable[System]) -> None:
    names = [system.name for system in systems]
    running = select(Run).join(SystemRow, Run.system_id == SystemRow.id)
    for run in session.scalars(running.where(SystemRow.name.in_(names), Run.state == "running")):
        catalogue.finish_run(session, run, "finished")


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9+-]+", "-", text).strip("-") or "x"
