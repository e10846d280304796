"""Processes that measure videos side by side: decoding and optical flow use one core each."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from evaluation.engine.worker import begin_process, share_of_cores
from evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from metrics.scorer import ScoreOptions, ScoreTable

CHUNK = 4  # videos measured between two answers of a process; the models are loaded again for each


class ScoringPool:
    """``workers`` processes for the time of a ``with``, begun when the first video comes; with one, this process."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._processes: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)
            self._processes = None

    def table(
        self,
        paths: Sequence[Path],
        prompts: Sequence[str],
        metrics: Sequence[str],
        *,
        reference: Sequence[Path] | None,
        options: "ScoreOptions",
        progress: bool,
    ) -> "ScoreTable":
        """Return the rows and failures of metrics of single videos, in the order of ``paths``.

        Raises:
            metrics.errors.MetricError: see ``metrics.scorer.score_videos``.
            EvaluationError: a process died.
        """
        from metrics.scorer import score_videos

        named: dict[str, Any] = {"reference_paths": reference, "options": options}
        if self.workers == 1:
            return score_videos(paths, prompts, metrics, progress=progress, **named)
        starts = range(0, len(paths), CHUNK)
        chunks = [(paths[start : start + CHUNK], prompts[start : start + CHUNK]) for start in starts]
        futures = [self._begun().submit(_measured, *chunk, metrics, named) for chunk in chunks]
        return _joined(futures, len(paths), progress)

    def _begun(self) -> ProcessPoolExecutor:
        if self._processes is None:
            context = multiprocessing.get_context("spawn")
            threads = share_of_cores(self.workers)
            self._processes = ProcessPoolExecutor(self.workers, context, begin_process, (threads,))
        return self._processes


def _measured(
    paths: Sequence[Path], prompts: Sequence[str], metrics: Sequence[str], named: dict[str, Any]
) -> "ScoreTable | str":
    """Measure in a process of the pool; return a sentence if nothing can be measured."""
    from metrics.errors import MetricError
    from metrics.scorer import score_videos

    try:
        return score_videos(paths, prompts, metrics, progress=False, **named)
    except MetricError as error:  # not every one of them survives the way between processes
        return str(error)


def _joined(futures: Sequence["Future[ScoreTable | str]"], count: int, progress: bool) -> "ScoreTable":
    from tqdm import tqdm

    from metrics.errors import MetricError
    from metrics.scorer import ScoreTable

    try:
        with tqdm(total=count, desc="score", disable=not progress or count < 2) as bar:
            for _ in as_completed(futures):
                bar.update(min(CHUNK, count - bar.n))
        answers = [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise EvaluationError(
            "a process that measured videos was ended, perhaps for want of memory; run the same command again, with "
            "fewer workers if it happens again"
        ) from error
    tables = [answer for answer in answers if not isinstance(answer, str)]
    if len(tables) < len(answers):
        raise MetricError(next(answer for answer in answers if isinstance(answer, str)))
    rows = tuple(row for table in tables for row in table.rows)
    return ScoreTable(rows, (), tuple(failure for table in tables for failure in table.failures))
