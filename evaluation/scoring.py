"""Score the videos of a database and keep every value with its signature; nothing is computed twice.

A value of one video is a row of that video. A value of the whole set of a system's videos (a Fréchet
distance, or the temporal score, in which frozen videos count as the worst) is a row of the system; its
signature then ends in ``|set:n=8,key=...``: the number of videos and a digest of the videos and of how they
were measured.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from arena import catalogue, media
from arena.database import Database
from arena.models import Score, System, Video
from evaluation.engine.scratch import scratch_folder, unusable
from evaluation.errors import EvaluationError
from evaluation.scoring_pool import ScoringPool

if TYPE_CHECKING:
    from metrics.scorer import ScoreOptions, ScoreTable

METRICS = ("clip", "fvd", "temporal")
BATCH = 64  # videos scored between two writes to the database
_SET = re.compile(r"(?P<measured>.*)\|set:n=(?P<n>\d+),key=(?P<key>[0-9a-f]+)", re.DOTALL)


@dataclass(frozen=True)
class ScoreSummary:
    """What scoring did: videos measured now, videos recognised as measured, and what could not be read."""

    scored: int
    reused: int
    failures: tuple[str, ...] = ()


def split_set_signature(signature: str) -> tuple[str, int]:
    """Split the stored signature of a set value into what was measured and the number of videos."""
    found = _SET.fullmatch(signature)
    return (found["measured"], int(found["n"])) if found else (signature, 1)


def score_system(
    database: Database,
    system: str,
    *,
    metrics: Sequence[str] = METRICS,
    reference: Sequence[Path] | None = None,
    options: "ScoreOptions | None" = None,
    progress: bool = True,
    pool: ScoringPool | None = None,
) -> ScoreSummary:
    """Measure every video of ``system`` and store the values.

    Args:
        metrics: names in ``metrics.registry``.
        reference: true videos, for metrics that compare two sets.
        options: how to measure; the defaults of ``metrics.scorer`` if None.
        pool: processes that measure single videos; this one alone if None.

    Raises:
        EvaluationError: the system has no video.
        metrics.errors.MetricError: an unknown metric, or weights that cannot be loaded.
    """
    with database.reading() as session:
        videos = catalogue.find_videos(session, system=system)
        if not videos:
            raise EvaluationError(f"there is no video of {system!r} to score; generate or import some first")
        key = _set_key(videos, metrics, reference, options)
        if _has_key(session, videos[0].system_id, key):
            return ScoreSummary(scored=0, reused=len(videos))
    scoring = _Scoring(database, metrics, reference, options, progress, pool or ScoringPool())
    scored, failures = scoring.each(videos)
    scoring.whole(videos, key)
    return ScoreSummary(scored=scored, reused=len(videos) - scored, failures=tuple(failures))


def check_models(metrics: Sequence[str], options: "ScoreOptions") -> None:
    """Load the models that measuring needs, so that one that is missing is found before any video is made.

    Raises:
        metrics.errors.MetricError: weights that cannot be loaded, or a model nobody knows.
    """
    from metrics.families import build_measures, load_flow
    from metrics.features import load_extractor
    from metrics.registry import metric_info

    of_videos = [name for name in metrics if metric_info(name).per == "video"]
    build_measures(of_videos, options, load_flow(options), has_prompts=True, has_images=False)
    if len(of_videos) < len(metrics):
        load_extractor(options.extractor, options.extractor_weights)


def _set_key(
    videos: Iterable[Video],
    metrics: Sequence[str],
    reference: Sequence[Path] | None,
    options: "ScoreOptions | None",
) -> str:
    """Digest the videos and everything that shapes their values, without loading a model."""
    from metrics.registry import metric_info

    digest = hashlib.sha256()
    for video in sorted(videos, key=lambda item: item.id):
        digest.update(f"{video.media_sha256}|{video.prompt.text}\n".encode())
    for name in sorted(metrics):
        digest.update(f"{name}|{metric_info(name).version}\n".encode())
    digest.update(f"{options!r}\n".encode())
    weights = (Path(str(files("metrics") / "weights"))).glob("*/recipe.json")  # hold the weights' sha256
    for path in (*sorted(weights), *(reference or ())):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _has_key(session: Session, system_id: int, key: str) -> bool:
    ending = f"%,key={key}"
    found = select(Score.id).where(Score.system_id == system_id, Score.signature.like(ending))
    return session.execute(found).first() is not None


class _Scoring:
    """One pass over the videos of a system."""

    def __init__(
        self,
        database: Database,
        metrics: Sequence[str],
        reference: Sequence[Path] | None,
        options: "ScoreOptions | None",
        progress: bool,
        pool: ScoringPool,
    ) -> None:
        from metrics.registry import metric_info
        from metrics.scorer import ScoreOptions

        self.database = database
        self.of_videos = [name for name in metrics if metric_info(name).per == "video"]
        self.of_sets = [name for name in metrics if metric_info(name).per == "set"]
        self.reference = reference
        self.options = options or ScoreOptions()
        self.progress, self.pool = progress, pool

    def each(self, videos: Sequence[Video]) -> tuple[int, list[str]]:
        """Measure the videos that lack a value, or have one that is measured otherwise now."""
        if not self.of_videos:
            return 0, []
        with self.database.reading() as session:
            known = _known(session, videos)
        new = [video for video in videos if not known[video.id]]
        old = [video for video in videos if known[video.id]]
        measured = {video.id for video in new}
        signatures, failures = self._measure(new, self.of_videos)
        if new:
            old = [video for video in old if not signatures <= known[video.id]]
        for metric in self.of_videos if old else ():
            # Signatures are known only after a measurement; the first video shows those of a metric.
            signatures, found = self._measure(old[:1], [metric])
            todo = [video for video in old[1:] if not signatures <= known[video.id]]
            failures += found + self._measure(todo, [metric])[1]
            measured |= {video.id for video in (*old[:1], *todo)}
        return len(measured), list(dict.fromkeys(failures))

    def _measure(
        self, videos: Sequence[Video], metrics: Sequence[str]
    ) -> tuple[set[tuple[str, str]], list[str]]:
        signatures: set[tuple[str, str]] = set()
        failures: list[str] = []
        for batch in _batches(videos, BATCH):
            with self._files(batch) as paths:
                table = self.pool.table(
                    paths,
                    [video.prompt.text for video in batch],
                    metrics,
                    reference=self.reference,
                    options=self.options,
                    progress=self.progress,
                )
            by_path = dict(zip(paths, batch, strict=True))
            with self.database.session() as session:
                for row in table.rows:
                    catalogue.add_score(
                        session,
                        metric=row.metric,
                        signature=row.signature,
                        value=row.value,
                        reason=row.reason,
                        video=by_path[row.path],
                    )
            signatures |= {(row.metric, row.signature) for row in table.rows}
            failures += [f"{_title(by_path[item.path])}: {item.reason}" for item in table.failures]
        return signatures, failures

    def whole(self, videos: Sequence[Video], key: str) -> None:
        """Store the values of the whole set."""
        values: list[tuple[str, str, float | None, str | None, int]] = []
        if self.of_sets:
            with self._files(videos) as paths:
                table = self._sets(paths)
            values = [
                (item.metric, item.signature, item.value, item.reason, item.n) for item in table.set_values
            ]
        if "temporal" in self.of_videos:
            with self.database.reading() as session:
                temporal = _temporal_of_set(session, videos)
            values += [temporal] if temporal else []
        with self.database.session() as session:
            system = session.get_one(System, videos[0].system_id)
            for metric, signature, value, reason, n in values:
                stored = f"{signature}|set:n={n},key={key}"
                catalogue.add_score(
                    session, metric=metric, signature=stored, value=value, reason=reason, system=system
                )

    def _sets(self, paths: Sequence[Path]) -> "ScoreTable":
        from metrics.scorer import score_videos

        return score_videos(
            paths,
            metrics=self.of_sets,
            reference_paths=self.reference,
            options=self.options,
            progress=self.progress,
        )

    @contextmanager
    def _files(self, videos: Sequence[Video]) -> Iterator[list[Path]]:
        """Lay the videos' stored bytes out as files for the time of a measurement."""
        with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
            paths = [Path(folder) / f"{video.id}.mp4" for video in videos]
            with self.database.reading() as session:
                for path, video in zip(paths, videos, strict=True):
                    data = media.read(session, video.media_sha256)
                    try:
                        path.write_bytes(data)
                    except OSError as error:
                        raise unusable(error) from error
            yield paths


def _known(session: Session, videos: Sequence[Video]) -> dict[int, set[tuple[str, str]]]:
    """Return the stored ``(metric, signature)`` of every video."""
    known: dict[int, set[tuple[str, str]]] = {video.id: set() for video in videos}
    rows = (
        select(Score.video_id, Score.metric, Score.signature)
        .join(Video, Score.video_id == Video.id)
        .where(Video.system_id == videos[0].system_id)
    )
    for video_id, metric, signature in session.execute(rows):
        if video_id in known:
            known[video_id].add((metric, signature))
    return known


def _temporal_of_set(
    session: Session, videos: Sequence[Video]
) -> tuple[str, str, float | None, str | None, int] | None:
    """Average the temporal score; a frozen video counts 0, the worst, unless its prompt asks for that."""
    from metrics.stillness import asks_for_motion

    rows = session.execute(
        select(Score.video_id, Score.metric, Score.signature, Score.value)
        .join(Video, Score.video_id == Video.id)
        .where(Video.system_id == videos[0].system_id, Score.metric.in_(("temporal", "static")))
        .order_by(Score.id)
    ).all()
    newest = {(video_id, metric): (signature, value) for video_id, metric, signature, value in rows}
    values: list[float] = []
    signatures: set[str] = set()
    for video in videos:
        found = newest.get((video.id, "temporal"))
        if found is None:
            continue
        signature, value = found
        signatures.add(signature)
        frozen = newest.get((video.id, "static"), ("", None))[1] == 1.0
        if value is not None:
            values.append(value)
        elif frozen and asks_for_motion(video.prompt.text):
            values.append(0.0)
    if not signatures:
        return None
    signature = " & ".join(sorted(signatures))
    if not values:
        return "temporal", signature, None, "no video of the set has a temporal score", 0
    return "temporal", signature, sum(values) / len(values), None, len(values)


def _batches(videos: Sequence[Video], size: int) -> Iterator[list[Video]]:
    items = iter(videos)
    while batch := list(islice(items, size)):
        yield batch


def _title(video: Video) -> str:
    return f"{video.system.name}, {video.prompt.text!r}, seed {video.seed}"
