"""Generation runs: every video of system x prompt x seed, made once, kept in a store and the database.

A video is known by its system's config digest, prompt and seed. It appears in the store whole or not at all, the
database row after it; a killed run is finished by the same call, which makes only what is missing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session
from tqdm import tqdm

from arena import catalogue
from arena.columns import now_utc
from arena.database import Database
from arena.models import Prompt, Run, Video
from arena.models import System as SystemRow
from arena.outcomes import Outcome
from evaluation.engine import scratch
from evaluation.engine.record import Job, VideoRecord
from evaluation.engine.serial import SerialEngine
from evaluation.engine.store import FolderStore, VideoStore
from evaluation.errors import EvaluationError
from evaluation.provenance import Provenance, collect
from evaluation.systems.base import System


class Engine(Protocol):
    """Makes videos somewhere."""

    def run(self, jobs: Sequence[Job], store: VideoStore) -> Iterator[VideoRecord]:
        """Yield a record of each job as it is done, in any order."""
        ...


@dataclass(frozen=True)
class RunSummary:
    """What a run did: videos made now, videos recognised as made before, and jobs that gave none.

    ``outcomes`` holds the records of this run's jobs and of earlier refusals.
    """

    made: int
    reused: int
    outcomes: tuple[VideoRecord, ...] = field(default=(), repr=False)

    def count(self, outcome: str) -> int:
        """Return how many jobs ended so."""
        return sum(record.outcome == outcome for record in self.outcomes)


def make_videos(
    database: Database,
    systems: Sequence[System],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    folder: Path,
    progress: bool = True,
) -> RunSummary:
    """Make every video of ``systems`` x ``prompts`` x ``seeds`` that is not in the database yet, in this process.

    All systems make a prompt before the next prompt begins, so that arms can share what they have in common.

    Raises:
        EvaluationError: no system, prompt or seed; an empty prompt; a system whose config differs from the
            one its earlier videos in this database were made with; a system that fails.
    """
    return run_jobs(
        database,
        systems,
        prompts,
        seeds=seeds,
        store=FolderStore(folder),
        engine=SerialEngine(systems),
        progress=progress,
    )


def run_jobs(
    database: Database,
    systems: Sequence[System],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    store: VideoStore,
    engine: Engine,
    copies: bool = True,
    progress: bool = True,
) -> RunSummary:
    """Bring store and database to every video of ``systems`` x ``prompts`` x ``seeds``; see ``make_videos``.

    Args:
        store: keeps the videos.
        engine: makes them.
        copies: whether the database holds the videos' bytes, so that it alone suffices for a study, or only names
            their addresses in the store.
    """
    _check(systems, prompts, seeds)
    jobs = [Job.of(system, prompt, seed) for prompt in prompts for seed in seeds for system in systems]
    with database.reading() as session:
        refuse_other_configs(session, systems)
        recorded = _recorded(session, systems)
    store.recover()
    missing = [job for job in jobs if (job.system, job.prompt, job.seed) not in recorded]
    _register(database, systems, prompts)
    recorder = _Recorder(database, systems, store, copies)
    outcomes: list[VideoRecord] = []
    todo: list[Job] = []
    for job in missing:
        known = store.record(job)
        if known is None or not known.settled:
            todo.append(job)
            continue
        outcomes.append(known)
        recorder.add(known)
    with tqdm(total=len(todo), desc="videos", unit="video", disable=not progress or not todo) as bar:
        for record in engine.run(todo, store):
            outcomes.append(record)
            recorder.add(record)
            bar.update()
            bar.set_postfix_str(_ill(outcomes))
    recorder.finish()
    store.recover()
    scratch.sweep()
    made = sum(record.outcome == "made" for record in outcomes)
    return RunSummary(made=made, reused=len(jobs) - len(missing), outcomes=tuple(outcomes))


def _check(systems: Sequence[System], prompts: Sequence[str], seeds: Sequence[int]) -> None:
    lists: dict[str, list[str]] = {
        "system": [system.name for system in systems],
        "prompt": list(prompts),
        "seed": [str(seed) for seed in seeds],
    }
    for name, values in lists.items():
        if not values:
            raise EvaluationError(f"nothing to generate: at least one {name} is needed")
        twice = sorted(value for value, times in Counter(values).items() if times > 1)
        if twice:
            raise EvaluationError(f"the {name} {twice[0]!r} is listed twice; list it once")
    if any(not prompt.strip() for prompt in prompts):
        raise EvaluationError("an empty prompt cannot be generated from; write what the video should show")


def refuse_other_configs(session: Session, systems: Sequence[System]) -> None:
    """Refuse a system whose earlier videos in this database were made with another config.

    Raises:
        EvaluationError: there is one; results of two configs do not mix.
    """
    for system in systems:
        known = session.scalars(select(SystemRow).where(SystemRow.name == system.name)).first()
        if known is not None and known.config_digest != system.config_digest:
            made = f"config {known.config_digest[:12]}" if known.config_digest else "an unknown config"
            raise EvaluationError(
                f"the database holds {system.name} made with {made}, this program makes config "
                f"{system.config_digest[:12]}; results of two configs do not mix: use another database or "
                "folder, or give the system another name"
            )


def _recorded(session: Session, systems: Sequence[System]) -> set[tuple[str, str, int]]:
    """Return system, prompt and seed of the videos in the database."""
    rows = (
        select(SystemRow.name, Prompt.text, Video.seed)
        .join(SystemRow, Video.system_id == SystemRow.id)
        .join(Prompt, Video.prompt_id == Prompt.id)
        .where(SystemRow.name.in_([system.name for system in systems]))
    )
    return {(name, text, seed) for name, text, seed in session.execute(rows)}


def _register(database: Database, systems: Sequence[System], prompts: Sequence[str]) -> None:
    """Enter systems and prompts in their order, so that this does not depend on which video is done first."""
    with database.session() as session:
        for system in systems:
            catalogue.ensure_system(session, system.name, config_digest=system.config_digest)
        for prompt in prompts:
            catalogue.ensure_prompt(session, prompt)


class _Recorder:
    """Enters into the database what became of each job."""

    def __init__(
        self, database: Database, systems: Sequence[System], store: VideoStore, copies: bool
    ) -> None:
        self.database, self.store, self.copies = database, store, copies
        self.systems = {system.name: system for system in systems}
        self.provenance = collect()

    def add(self, record: VideoRecord) -> None:
        """Enter a record, and its video if there is one."""
        if record.outcome != "made":
            with self.database.session() as session:
                self._enter(session, record)
            return
        job = Job.of(self.systems[record.system], record.prompt, record.seed)
        with self.store.opened(job) as path, self.database.session() as session:
            self._enter(session, record, path, None if self.copies else self.store.url(job))

    def _enter(
        self, session: Session, record: VideoRecord, path: Path | None = None, url: str | None = None
    ) -> None:
        system = self.systems[record.system]
        row = catalogue.ensure_system(session, system.name, config_digest=system.config_digest)
        prompt = catalogue.ensure_prompt(session, record.prompt)
        video = None
        if path is not None:
            run = _open_run(session, row, system, record.seed, self.provenance)
            video = catalogue.add_video(session, row, prompt, path, seed=record.seed, run=run, kept_at=url)
        session.merge(_outcome(record, row, prompt, video))

    def finish(self) -> None:
        """Mark this run's runs as finished."""
        with self.database.session() as session:
            _finish_runs(session, self.systems)


def _outcome(record: VideoRecord, system: SystemRow, prompt: Prompt, video: Video | None) -> Outcome:
    return Outcome(
        system_id=system.id,
        prompt_id=prompt.id,
        seed=record.seed,
        outcome=record.outcome,
        reason=record.reason,
        video_id=None if video is None else video.id,
        config_digest=record.config_digest,
        model=record.model,
        seed_used=record.seed_used,
        requested=dict(record.requested),
        seconds=record.seconds,
        attempts=record.attempts,
        cost=record.cost,
        currency=record.currency,
        remote_id=record.remote_id,
        device=record.device,
        created_at=now_utc(),
    )


def _open_run(session: Session, row: SystemRow, system: System, seed: int, provenance: Provenance) -> Run:
    """Return the unfinished run of this system and seed made by the same program, or begin one."""
    unfinished = session.scalars(
        select(Run).where(
            Run.system_id == row.id,
            Run.config_digest == system.config_digest,
            Run.seed == seed,
            Run.state == "running",
        )
    )
    for run in unfinished:
        if (run.git_commit, run.git_dirty, run.packages, run.device) == (
            provenance.git_commit,
            provenance.git_dirty,
            provenance.packages,
            system.device,
        ):
            return run
    return catalogue.start_run(
        session,
        row,
        config_digest=system.config_digest,
        seed=seed,
        config=dict(system.config),
        git_commit=provenance.git_commit,
        git_dirty=provenance.git_dirty,
        packages=provenance.packages,
        device=system.device,
    )


def _finish_runs(session: Session, names: Iterable[str]) -> None:
    running = select(Run).join(SystemRow, Run.system_id == SystemRow.id)
    for run in session.scalars(running.where(SystemRow.name.in_(list(names)), Run.state == "running")):
        catalogue.finish_run(session, run, "finished")


def _ill(outcomes: Iterable[VideoRecord]) -> str:
    counts = Counter(record.outcome for record in outcomes)
    return ", ".join(f"{count} {name}" for name, count in counts.items() if name != "made")
