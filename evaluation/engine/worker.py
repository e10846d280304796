"""One process that makes videos for another: it takes jobs from a pipe and sends records back."""

import importlib
import logging
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from evaluation.engine.record import Job, VideoRecord, without_video
from evaluation.systems.base import System
from evaluation.systems.specification import Builder, SystemSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker must know.

    Attributes:
        systems: specs by name.
        store: place of the store.
        device: where systems run.
        base, cache_dir, tickets, prompts: see ``Builder``.
        attempts: tries of a video if failures are transient.
        pause: seconds before the second try.
        threads: of numerical libraries in a process of its own; their own choice if None.
    """

    systems: Mapping[str, SystemSpec]
    store: str
    device: str = "cpu"
    base: Path = Path()
    cache_dir: Path | None = None
    tickets: Path | None = None
    prompts: tuple[str, ...] = ()
    attempts: int = 3
    pause: float = 1.0
    threads: int | None = None


READY = "ready"  # sent once before the first record, so that starting does not count as making a video


class StoreFailure(str):
    """A sentence that ends the whole run."""


class Worker:
    """Makes videos; keeps the systems of one group loaded."""

    def __init__(self, settings: WorkerSettings) -> None:
        for module in ("evaluation.engine.make", "magicvideo.video"):
            importlib.import_module(module)  # what every video needs is loaded before the first one is timed
        from evaluation.engine.store import open_store

        self.settings = settings
        self.store = open_store(settings.store)
        self.group = ""
        self._leave_group("")

    def make(self, job: Job) -> VideoRecord:
        """Make one video; every failure of the system becomes a record.

        Raises:
            evaluation.engine.store.StoreError: the store cannot take it.
        """
        from arena.errors import ArenaError
        from evaluation.engine.make import make
        from evaluation.engine.store import StoreError
        from evaluation.errors import EvaluationError
        from magicvideo.errors import MagicVideoError

        settings = self.settings
        if job.group != self.group:
            self._leave_group(job.group)
        try:
            if job.system not in self.systems:
                self.systems[job.system] = self.builder.build(job.system, settings.systems[job.system])
            system = self.systems[job.system]
            return make(system, job, self.store, attempts=settings.attempts, pause=settings.pause)
        except StoreError:
            raise
        except (EvaluationError, ArenaError, MagicVideoError) as error:
            reason = str(error)
        except (  # whatever somebody else's code may raise; anything else ends this process, which is a crash
            ArithmeticError,
            AssertionError,
            AttributeError,
            ImportError,
            LookupError,
            MemoryError,
            NotImplementedError,
            OSError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            log.warning("%s failed", job.title, exc_info=error)
            reason = f"{type(error).__name__}: {error}"
        record = without_video(job, "failed", reason)
        self.store.note(job, record)
        return record

    def _leave_group(self, group: str) -> None:
        """Forget the loaded systems, so that those of the next group find memory."""
        settings = self.settings
        self.group = group
        self.systems: dict[str, System] = {}
        self.builder = Builder(
            device=settings.device,
            base=settings.base,
            cache_dir=settings.cache_dir,
            tickets=settings.tickets,
            prompts=settings.prompts,
        )


def serve(connection: Connection, settings: WorkerSettings) -> None:
    """Answer jobs with records until told to stop (``None``) or until the parent has gone."""
    from evaluation.engine.store import StoreError

    begin_process(settings.threads)
    worker = Worker(settings)
    try:
        connection.send(READY)
        while (job := connection.recv()) is not None:
            try:
                connection.send(worker.make(job))
            except StoreError as error:
                connection.send(StoreFailure(error))
    except (EOFError, BrokenPipeError):
        return


def begin_process(threads: int | None) -> None:
    """Prepare a process that works for another one, before it imports torch.

    It ends with its parent, leaves an interrupt to it, and holds nothing that outlives a kill.

    Args:
        threads: of numerical libraries; their own choice if None.
    """
    from tqdm import tqdm

    # tqdm's own lock is a semaphore of the system, which a killed process would leave behind.
    tqdm.set_lock(threading.RLock())
    # Not SIG_IGN, which would be passed on to the programs that systems run.
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def share_of_cores(processes: int) -> int:
    """Return the threads of each of so many processes: more threads than cores would wait for one another."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
