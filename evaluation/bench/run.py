"""Run a bench: generate, enter into the database, measure, write the manifest; any of it may be interrupted."""

import fcntl
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DatabaseError as DriverError

from arena import catalogue
from arena.database import Database, open_database, unreachable
from evaluation.bench.manifest import Manifest
from evaluation.bench.specification import RunSpec, ScoringSpec, read_bench
from evaluation.engine.record import Job, VideoRecord
from evaluation.engine.store import VideoStore, open_store
from evaluation.engine.worker import WorkerSettings
from evaluation.errors import EvaluationError
from evaluation.prompts import PromptSuite, digest_of_prompts
from evaluation.runs import Engine, RunSummary, run_jobs
from evaluation.scoring import check_models, score_system
from evaluation.scoring_pool import ScoringPool
from evaluation.systems.base import System
from evaluation.systems.imported import ImportedSystem
from evaluation.systems.specification import Builder, SystemSpec, resolved
from evaluation.yaml_file import misfit_at
from magicvideo.errors import MagicVideoError
from metrics.errors import MetricError

log = logging.getLogger(__name__)
LOCK = ".lock"


@dataclass(frozen=True)
class BenchResult:
    """What a run of a bench did.

    ``notes`` are sentences on what is not as asked for.
    """

    videos: RunSummary
    scored: int
    notes: tuple[str, ...] = ()


@dataclass
class Workspace:
    """A run's places and loaded prompts.

    Attributes:
        spec: what was asked for.
        systems: specs by name.
        file: that asks for it.
        folder: of everything.
        suites: loaded sources of prompts.
    """

    spec: RunSpec
    systems: Mapping[str, SystemSpec]
    file: Path
    folder: Path
    suites: tuple[PromptSuite, ...] = field(repr=False)

    @classmethod
    def of(cls, spec: RunSpec, systems: Mapping[str, SystemSpec], file: Path) -> "Workspace":
        """Place a run beside its file and load its prompts.

        Raises:
            EvaluationError: prompts that cannot be had; line and key are named.
        """
        base = file.absolute().parent
        suites = []
        for index, source in enumerate(spec.prompts):
            try:
                suites.append(source.load(base))
            except EvaluationError as error:
                raise misfit_at(file, ("prompts", index), error) from error
        return cls(spec, systems, file, base / (spec.folder or file.stem), tuple(suites))

    @property
    def base(self) -> Path:
        """Folder of the file, which relative paths are relative to."""
        return self.file.absolute().parent

    @property
    def prompts(self) -> list[str]:
        """All texts, each once, in order."""
        return list(dict.fromkeys(text for suite in self.suites for text in suite.texts))

    @property
    def database_url(self) -> str:
        place = self.spec.database
        if place is None:
            return f"sqlite:///{self.folder / 'magicvideo.db'}"
        return place if "://" in place else f"sqlite:///{self.base / place}"

    @property
    def store_place(self) -> str:
        place = self.spec.store
        if place is None:
            return str(self.folder / "videos")
        return place if "://" in place else str(self.base / place)

    def reference(self) -> list[Path] | None:
        """Return the real videos, None if none are asked for.

        Raises:
            EvaluationError: their folder holds none; line and key are named.
        """
        if self.spec.reference is None:
            return None
        try:
            return reference_videos(self.base / self.spec.reference)
        except EvaluationError as error:
            raise misfit_at(self.file, ("reference",), error) from error

    def builder(self) -> Builder:
        """Return what builds the systems in this process."""
        settings = self.worker_settings()
        return Builder(
            device=self.spec.engine.devices[0],
            base=settings.base,
            cache_dir=settings.cache_dir,
            tickets=settings.tickets,
            prompts=settings.prompts,
        )

    def built(self) -> list[System]:
        """Return the systems, without loading a model.

        Raises:
            EvaluationError: one that cannot be; line and key are named.
        """
        builder, found = self.builder(), []
        for name, spec in self.systems.items():
            try:
                found.append(builder.build(name, spec))
            except (EvaluationError, MagicVideoError) as error:
                raise misfit_at(self.file, ("systems", name), error) from error
        return found

    def worker_settings(self) -> WorkerSettings:
        """Return what workers must know."""
        return WorkerSettings(
            systems=dict(self.systems),
            store=self.store_place,
            base=self.base,
            cache_dir=self.folder / "stages",
            tickets=self.folder / "tickets",
            prompts=tuple(self.prompts),
            attempts=self.spec.engine.attempts,
        )

    def check_models(self) -> None:
        """Load what is to measure, unless it ships with the program.

        Raises:
            EvaluationError: it cannot be loaded; line and key are named.
        """
        if self.spec.scoring == ScoringSpec():
            return
        try:
            check_models(self.spec.metrics, self.spec.scoring.options(self.base))
        except MetricError as error:
            raise misfit_at(self.file, ("scoring",), error) from error

    def scoring_pool(self) -> ScoringPool:
        """Return the processes that measure: as many as make videos, one where an accelerator measures."""
        return ScoringPool(self.spec.engine.workers if self.spec.scoring.device == "cpu" else 1)

    def engine(self) -> Engine:
        """Return the engine the file asks for.

        Raises:
            EvaluationError: Ray is asked for and not installed.
        """
        asked, settings = self.spec.engine, self.worker_settings()
        if asked.ray is not None:
            from evaluation.engine.ray_cluster import RayEngine

            return RayEngine(settings, address=asked.ray, gpus=asked.gpus, crashes=asked.crashes)
        from evaluation.engine.local import LocalEngine

        return LocalEngine(
            settings,
            workers=asked.workers,
            devices=asked.devices,
            crashes=asked.crashes,
            timeout=asked.timeout,
        )


def run_bench(file: Path, *, progress: bool = True) -> BenchResult:
    """Do what a bench file asks for, as far as it is not done.

    Raises:
        EvaluationError: a bad file, another run in the same folder, systems of another config, a store or database
            that cannot be used.
    """
    spec = read_bench(file)
    return run_workspace(Workspace.of(spec, spec.systems, file), file, progress=progress)


def run_workspace(workspace: Workspace, file: Path, *, progress: bool = True) -> BenchResult:
    """Generate and measure; see ``run_bench``."""
    systems = workspace.built()
    with locked(workspace.folder), opened(workspace.database_url) as database:
        manifest = Manifest(workspace.folder)
        manifest.begin(**_described(workspace, systems, file))
        store = open_store(workspace.store_place)
        records: list[VideoRecord] = []
        try:
            reference = workspace.reference()
            workspace.check_models()
            videos = run_jobs(
                database,
                systems,
                workspace.prompts,
                seeds=workspace.spec.seeds,
                store=store,
                engine=workspace.engine(),
                copies=workspace.spec.copies,
                progress=progress,
            )
            records = list(videos.outcomes)
            scored, unmeasured = _score(workspace, database, systems, reference, progress)
            notes = [*_matches(workspace, systems), *_gaps(videos), *unmeasured]
        except BaseException:
            manifest.end("failed", records)
            raise
        manifest.end("finished", records, notes=notes, scored=scored)
    return BenchResult(videos, scored, tuple(notes))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other runs.

    Raises:
        EvaluationError: another run holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise EvaluationError(
            f"cannot use the folder {folder}: {error.strerror}; choose another with the key 'folder'"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EvaluationError(f"another run is at work in {folder}; wait until it has ended") from error
        yield


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Open a database; a driver's failure becomes one sentence.

    Raises:
        arena.errors.DatabaseError: it cannot be used.
    """
    database = open_database(url, create=True)
    try:
        yield database
    except DriverError as error:
        raise unreachable(url, error) from error
    finally:
        database.close()


def all_records(
    workspace: Workspace, systems: Sequence[System], store: VideoStore
) -> list[VideoRecord | None]:
    """Return what became of every job, None where nothing is known yet, in the order of jobs."""
    return [
        store.record(Job.of(system, prompt, seed))
        for system in systems
        for prompt in workspace.prompts
        for seed in workspace.spec.seeds
    ]


def _described(workspace: Workspace, systems: Sequence[System], file: Path) -> dict[str, Any]:
    spec = workspace.spec
    return {
        "file": file.name,
        "config_digest": hashlib.sha256(spec.model_dump_json().encode()).hexdigest(),
        "systems": {
            system.name: {
                "adapter": resolved(system.name, workspace.systems[system.name]).adapter,
                "card": workspace.systems[system.name].card,
                "config_digest": system.config_digest,
                "config": dict(system.config),
            }
            for system in systems
        },
        "prompts": [
            {
                "name": suite.name,
                "licence": suite.licence,
                "variant": suite.variant,
                "count": len(suite.texts),
                "sha256": suite.digest,
            }
            for suite in workspace.suites
        ],
        "prompt_digest": digest_of_prompts(workspace.prompts),
        "seeds": list(spec.seeds),
        "devices": list(spec.engine.devices),
        "engine": spec.engine.model_dump(mode="json"),
        "metrics": list(spec.metrics),
    }


def _score(
    workspace: Workspace,
    database: Database,
    systems: Sequence[System],
    reference: Sequence[Path] | None,
    progress: bool,
) -> tuple[int, list[str]]:
    spec = workspace.spec
    if not spec.metrics:
        return 0, []
    scored, notes = 0, []
    with workspace.scoring_pool() as pool:
        for system in systems:
            with database.reading() as session:
                if not catalogue.find_videos(session, system=system.name):
                    notes.append(f"{system.name} has no video to measure")
                    continue
            done = score_system(
                database,
                system.name,
                metrics=spec.metrics,
                reference=reference,
                options=spec.scoring.options(workspace.base),
                progress=progress,
                pool=pool,
            )
            scored += done.scored
            notes += done.failures
    return scored, notes


def reference_videos(folder: Path) -> list[Path]:
    """Return the sorted mp4 files of a folder.

    Raises:
        EvaluationError: there are none.
    """
    found = sorted(path for path in folder.glob("*.mp4") if path.is_file())
    if not found:
        raise EvaluationError(f"the folder of real videos {folder} holds no .mp4 file")
    return found


def _matches(workspace: Workspace, systems: Sequence[System]) -> list[str]:
    """Say how imported videos fit the prompts, or why there are none."""
    notes = []
    for system in systems:
        if isinstance(system, ImportedSystem):
            fit = system.match(workspace.prompts, workspace.spec.seeds) if not system.check() else None
            notes.append(f"{system.name}: {fit.sentence()}" if fit else system.check()[0])
    return notes


def _gaps(videos: RunSummary) -> list[str]:
    """Say which systems lack videos, and why the first of them is lacking."""
    notes = []
    for outcome in ("refused", "missing", "failed"):
        by_system: dict[str, list[VideoRecord]] = {}
        for record in videos.outcomes:
            if record.outcome == outcome:
                by_system.setdefault(record.system, []).append(record)
        for name, records in by_system.items():
            notes.append(f"{name}: {len(records)} videos {outcome}, e.g. {records[0].reason}")
    return notes
