import multiprocessing
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from arena.database import Database
from arena.errors import ArenaError
from arena.models import Score, Video
from evaluation.clips import write_clip
from evaluation.errors import EvaluationError
from evaluation.reference import sprites_reference
from evaluation.report.build import build_report
from evaluation.runs import make_videos
from evaluation.scoring import score_system, split_set_signature
from evaluation.scoring_pool import CHUNK, ScoringPool
from evaluation.systems.base import Clip
from evaluation.systems.sprites_truth import SpritesTruth
from metrics.errors import MetricError, UnknownNameError
from metrics.registry import METRICS
from metrics.scorer import ScoreOptions

MOVING = (
    "a large red star moving right on a black background",
    "a large green circle moving down on a snow background",
)
STILL = "a large blue square standing still on a meadow background"


class Frozen(SpritesTruth):
    """The true first frame, held for the whole clip."""

    def generate(self, prompt: str, seed: int) -> Clip:
        clip = super().generate(prompt, seed)
        return Clip(np.repeat(clip.frames[:1], len(clip.frames), 0), clip.fps)


def moving() -> SpritesTruth:
    return SpritesTruth(size=64, num_frames=8, fps=Fraction(10), name="moving")


def frozen() -> Frozen:
    return Frozen(size=64, num_frames=8, fps=Fraction(10), name="frozen")


def make(database: Database, folder: Path, system: SpritesTruth, *prompts: str) -> None:
    make_videos(database, [system], prompts, folder=folder, progress=False)


def stored(database: Database) -> dict[tuple[str, str | None], tuple[float | None, str | None, datetime]]:
    """Return value, reason and time by metric and prompt, with None for a whole set."""
    with database.reading() as session:
        prompts = {video.id: video.prompt.text for video in session.scalars(select(Video))}
        return {
            (score.metric, prompts.get(score.video_id or 0)): (score.value, score.reason, score.created_at)
            for score in session.scalars(select(Score).order_by(Score.id))
        }


def test_every_video_gets_its_values_with_a_signature(database: Database, tmp_path: Path) -> None:
    make(database, tmp_path, moving(), *MOVING)
    summary = score_system(database, "moving", metrics=("temporal",), progress=False)
    assert (summary.scored, summary.reused, summary.failures) == (2, 0, ())
    rows = stored(database)
    family = {name for name, info in METRICS.items() if info.family == "temporal"}
    assert {metric for metric, prompt in rows if prompt == MOVING[0]} == family
    assert rows["temporal", None][0] == pytest.approx(
        np.mean([rows["temporal", prompt][0] for prompt in MOVING])
    )
    with database.reading() as session:
        signatures = list(session.scalars(select(Score.signature).where(Score.metric == "temporal")))
    assert all("fps:10" in signature for signature in signatures)


def test_several_processes_measure_what_one_does_and_in_the_same_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.mp4" for index in range(CHUNK + 2)]
    for index, path in enumerate(paths[:-1]):
        scene = moving().generate(MOVING[index % 2], index)
        write_clip(path, scene.frames, scene.fps)
    prompts = [MOVING[0]] * len(paths)
    given: dict[str, Any] = {"reference": None, "options": ScoreOptions(), "progress": False}
    alone = ScoringPool().table(paths, prompts, ["temporal"], **given)
    with ScoringPool(2) as pool:
        shared = pool.table(paths, prompts, ["temporal"], **given)
        assert (shared.rows, shared.failures) == (alone.rows, alone.failures)
        assert [failure.path for failure in shared.failures] == paths[-1:]
        with pytest.raises(MetricError, match="unknown metric 'x'; known: "):
            pool.table(paths, prompts, ["x"], **given)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(EvaluationError, match="a process that measured videos was ended"):
            pool.table(paths, prompts, ["temporal"], **given)


def test_nothing_is_measured_twice(database: Database, tmp_path: Path) -> None:
    make(database, tmp_path, moving(), MOVING[0])
    score_system(database, "moving", metrics=("temporal",), progress=False)
    first = stored(database)
    again = score_system(database, "moving", metrics=("temporal",), progress=False)
    assert (again.scored, again.reused) == (0, 1)
    assert stored(database) == first
    make(database, tmp_path, moving(), *MOVING)
    more = score_system(database, "moving", metrics=("temporal",), progress=False)
    assert (more.scored, more.reused) == (1, 1)
    after = stored(database)
    assert after["temporal", MOVING[0]] == first["temporal", MOVING[0]]
    assert ("temporal", MOVING[1]) in after


def test_other_sampling_measures_only_what_depends_on_it(database: Database, tmp_path: Path) -> None:
    make(database, tmp_path, moving(), *MOVING)
    metrics = ("clip", "temporal")

    def moments(metric: str) -> list[tuple[int | None, str, datetime]]:
        of_videos = select(Score).where(Score.metric == metric, Score.video_id.is_not(None))
        with database.reading() as session:
            rows = session.scalars(of_videos.order_by(Score.video_id, Score.id))
            return [(row.video_id, row.signature, row.created_at) for row in rows]

    score_system(database, "moving", metrics=metrics, progress=False)
    clip, temporal = moments("clip"), moments("temporal")
    options = ScoreOptions(temporal_sampling="fps:5")
    again = score_system(database, "moving", metrics=metrics, options=options, progress=False)
    assert (again.scored, len(clip)) == (2, 2)
    assert moments("clip")[1:] == clip[1:]  # the first is measured to see its signature
    assert len(moments("temporal")) == 2 * len(temporal)
    assert set(temporal) < set(moments("temporal"))


def test_frozen_videos_count_as_the_worst_unless_stillness_was_asked_for(
    database: Database, tmp_path: Path
) -> None:
    make(database, tmp_path, frozen(), *MOVING, STILL)
    score_system(database, "frozen", metrics=("temporal",), progress=False)
    rows = stored(database)
    counted = [rows["temporal", prompt][0] or 0.0 for prompt in MOVING]  # without a value it is the worst
    still = rows["temporal", STILL][0]  # without a value it is left out; the codec's noise can give it one
    counted += [] if still is None else [still]
    assert None in [rows["temporal", prompt][0] for prompt in (*MOVING, STILL)]
    assert rows["temporal", None][0] == pytest.approx(np.mean(counted))
    make(database, tmp_path, moving(), MOVING[0], STILL)
    score_system(database, "moving", metrics=("temporal",), progress=False)
    values = {(item.system, item.metric): item for item in build_report(database).metrics}
    assert (values["moving", "temporal"].value or 0) > (values["frozen", "temporal"].value or 0) + 0.2
    assert values["frozen", "temporal"].n == len(counted)
    assert "static" in str(values["frozen", "temporal"].reason)
    assert values["moving", "temporal"].comparable


def test_distance_without_a_reference_is_absent_with_its_reason(database: Database, tmp_path: Path) -> None:
    make(database, tmp_path, moving(), MOVING[0])
    score_system(database, "moving", metrics=("fvd",), progress=False)
    value, reason, _ = stored(database)["fvd", None]
    assert value is None
    assert "reference" in str(reason)
    [shown] = build_report(database).metrics
    assert (shown.value, shown.n, shown.reason) == (None, 1, reason)


def test_embedded_models_score_videos_and_sets(database: Database, tmp_path: Path) -> None:
    make(database, tmp_path / "v", moving(), *MOVING)
    reference = sprites_reference(tmp_path / "r", 4, size=64, num_frames=8, fps=Fraction(10), progress=False)
    score_system(
        database, "moving", metrics=("clip", "video_text", "fvd"), reference=reference, progress=False
    )
    values = {item.metric: item for item in build_report(database).metrics}
    assert values.keys() == {"clip", "video_text", "fvd"}
    assert all(item.value is not None and item.reason is None for item in values.values())
    assert (values["fvd"].n, values["clip"].n) == (2, 2)
    assert "n:2|reference:" in values["fvd"].signature
    before = stored(database)
    make(database, tmp_path / "v", moving(), *MOVING, STILL)
    score_system(
        database, "moving", metrics=("clip", "video_text", "fvd"), reference=reference, progress=False
    )
    values = {item.metric: item for item in build_report(database).metrics}
    assert values["fvd"].n == 3
    assert before["clip", MOVING[0]] == stored(database)["clip", MOVING[0]]


def test_reference_clips_are_held_out_and_kept(tmp_path: Path) -> None:
    first = sprites_reference(tmp_path, 2, size=32, num_frames=4, progress=False)
    times = [path.stat().st_mtime_ns for path in first]
    more = sprites_reference(tmp_path, 3, size=32, num_frames=4, progress=False)
    assert more[:2] == first
    assert [path.stat().st_mtime_ns for path in first] == times
    assert len({path.read_bytes() for path in more}) == 3


def test_unknown_names_are_refused_before_any_work(database: Database, tmp_path: Path) -> None:
    make(database, tmp_path, moving(), MOVING[0])
    with pytest.raises(UnknownNameError, match="temporal"):
        score_system(database, "moving", metrics=("temporel",), progress=False)
    with pytest.raises(ArenaError, match="moving"):
        score_system(database, "mooving", progress=False)
    assert stored(database) == {}


def test_signature_of_a_set_names_the_number_of_videos() -> None:
    assert split_set_signature("fvd|v:1|n:8|set:n=8,key=0a1b") == ("fvd|v:1|n:8", 8)
    assert split_set_signature("clip|v:1") == ("clip|v:1", 1)
