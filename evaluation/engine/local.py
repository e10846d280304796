"""A pool of processes on this machine: a system that crashes takes its process with it, never the run."""

import logging
import math
import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from evaluation.engine.record import Job, VideoRecord, without_video
from evaluation.engine.store import StoreError, VideoStore
from evaluation.engine.worker import READY, StoreFailure, WorkerSettings, serve, share_of_cores

log = logging.getLogger(__name__)
PATIENCE = 3  # failures of a system in a row, with no success at all, after which the run goes on without it


@dataclass
class _Process:
    """A worker and what it is doing."""

    process: Any
    connection: Connection
    chunk: deque[Job]
    job: Job | None = None
    since: float = math.inf
    ready: bool = False
    group: str = ""


class LocalEngine:
    """Runs systems in ``workers`` processes, bound to ``devices`` in turn."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        workers: int = 1,
        devices: Sequence[str] = ("cpu",),
        crashes: int = 2,
        timeout: float | None = None,
    ) -> None:
        """Describe the pool.

        Args:
            settings: of the workers; ``device`` is replaced by theirs, ``threads`` by their share of the cores.
            workers: processes.
            devices: e.g. ``cuda:0, cuda:1``.
            crashes: tries of a video that ends its process.
            timeout: seconds after which a video's process is ended.
        """
        self.settings, self.workers, self.devices = settings, workers, tuple(devices)
        self.crashes, self.timeout = crashes, timeout

    def run(self, jobs: Sequence[Job], store: VideoStore) -> Iterator[VideoRecord]:
        """Yield the record of each job as it is done; the order is that of completion.

        Raises:
            StoreError: the store cannot take a video; nothing that was made is lost.
        """
        pool = _Pool(self, jobs, store)
        try:
            yield from pool.run()
        finally:
            pool.close()


class _Pool:
    """One run of the engine."""

    def __init__(self, engine: LocalEngine, jobs: Sequence[Job], store: VideoStore) -> None:
        self.engine, self.store = engine, store
        self.chunks = chunks_of(jobs)
        self.crashed: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.succeeded: set[str] = set()
        self.dropped: list[VideoRecord] = []
        count = min(engine.workers, len(self.chunks))
        self.processes = [self._start(index) for index in range(count)]

    def run(self) -> Iterator[VideoRecord]:
        for index in range(len(self.processes)):
            self._next(index)
        while any(item.job for item in self.processes):
            for index in self._ready():
                record = self._take(index)
                if record is not None:
                    self._judge(record)
                    yield record
                self._next(index)
            while self.dropped:
                yield self.dropped.pop()
        while self.dropped:
            yield self.dropped.pop()

    def close(self) -> None:
        for item in self.processes:
            item.process.kill()
            item.process.join()
            item.connection.close()

    def _start(self, index: int) -> _Process:
        device = self.engine.devices[index % len(self.engine.devices)]
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = share_of_cores(self.engine.workers)
        settings = replace(self.engine.settings, device=device, threads=threads)
        process = context.Process(target=serve, args=(theirs, settings), daemon=True)
        process.start()
        theirs.close()
        return _Process(process, ours, deque())

    def _ready(self) -> list[int]:
        """Wait until a worker has answered, died, or taken too long."""
        busy = {item.connection: index for index, item in enumerate(self.processes) if item.job}
        patience = None
        first = min(item.since for item in self.processes if item.job)
        if self.engine.timeout is not None and first < math.inf:
            patience = max(0.0, first + self.engine.timeout - time.monotonic())
        ready = [busy[item] for item in wait(list(busy), patience)]  # type: ignore[index]
        return ready or [index for index in busy.values() if self._late(index)]

    def _late(self, index: int) -> bool:
        timeout = self.engine.timeout
        return timeout is not None and time.monotonic() - self.processes[index].since >= timeout

    def _take(self, index: int) -> VideoRecord | None:
        """Return a worker's answer; None if it died and the job is to be tried again."""
        item = self.processes[index]
        job = item.job
        assert job is not None  # only busy workers are ready
        try:
            if not item.connection.poll() and self._late(index):
                raise EOFError
            answer = item.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._crash(index, job)
        if answer == READY:
            item.ready, item.since = True, time.monotonic()
            return None
        if isinstance(answer, StoreFailure):
            raise StoreError(str(answer))
        item.job = None
        return answer

    def _crash(self, index: int, job: Job) -> VideoRecord | None:
        item = self.processes[index]
        late = item.process.is_alive() and self._late(index)
        item.process.kill()
        item.process.join()
        how = f"took longer than {self.engine.timeout:g} s" if late else _ending(item.process.exitcode)
        item.connection.close()
        rest = item.chunk
        self.processes[index] = self._start(index)
        self.processes[index].chunk = rest
        known = self.store.record(job)
        if known is not None and known.settled:  # it died after the work was done
            return known
        self.crashed[job.key] += 1
        log.warning("%s: its process %s", job.title, how)
        if self.crashed[job.key] < self.engine.crashes:
            rest.appendleft(job)
            return None
        record = without_video(job, "failed", f"its process {how}", attempts=self.crashed[job.key])
        self.store.note(job, record)
        return record

    def _judge(self, record: VideoRecord) -> None:
        """Count failures, and go on without a system that only fails."""
        if record.outcome != "failed":
            self.succeeded.add(record.system)
            return
        self.failures[record.system] += 1
        if record.system in self.succeeded or self.failures[record.system] < PATIENCE:
            return
        reason = (
            f"not tried: {record.system} failed {PATIENCE} times in a row, the last time: {record.reason}"
        )
        for chunk in (*self.chunks, *(item.chunk for item in self.processes)):
            lost = [job for job in chunk if job.system == record.system]
            self.dropped += [without_video(job, "failed", reason, attempts=0) for job in lost]
            kept = [job for job in chunk if job.system != record.system]
            chunk.clear()
            chunk.extend(kept)

    def _next(self, index: int) -> None:
        """Give an idle worker its next job, if there is one, of its group if possible."""
        item = self.processes[index]
        if item.job is not None:
            return
        while not item.chunk and self.chunks:
            place = next(
                (n for n, chunk in enumerate(self.chunks) if chunk and chunk[0].group == item.group), 0
            )
            item.chunk = self.chunks[place]
            del self.chunks[place]
        if not item.chunk:
            return
        item.job = item.chunk.popleft()
        item.since = time.monotonic() if item.ready else math.inf
        item.group = item.job.group
        try:
            item.connection.send(item.job)
        except OSError:
            return  # its death is seen as its answer


def chunks_of(jobs: Sequence[Job]) -> deque[deque[Job]]:
    """Return jobs of one group, prompt and seed together: they are made one after the other in one process."""
    chunks: dict[tuple[str, str, int], deque[Job]] = {}
    for job in jobs:
        chunks.setdefault((job.group, job.prompt, job.seed), deque()).append(job)
    return deque(chunks.values())


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"
