import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from sqlalchemy import select

from arena import catalogue, media
from arena.database import Database, open_database
from arena.models import Run, Video
from arena.outcomes import Outcome
from evaluation.clips import PARTIAL
from evaluation.errors import EvaluationError
from evaluation.runs import make_videos
from evaluation.systems.base import Clip, Details, MissingError, RefusedError
from evaluation.systems.sprites_truth import SpritesTruth

PROMPTS = (
    "a large red star spinning on a sunset background",
    "a small blue circle moving right on a snow background",
)


class Counting(SpritesTruth):
    """The true clips, counted."""

    made = 0

    def generate(self, prompt: str, seed: int) -> Clip:
        self.made += 1
        return super().generate(prompt, seed)


def small(name: str = "sprites:truth", size: int = 32) -> Counting:
    return Counting(size=size, num_frames=6, name=name)


def stored(database: Database) -> set[tuple[Any, ...]]:
    with database.reading() as session:
        return {
            (video.system.name, video.prompt.text, video.seed, video.media_sha256)
            for video in session.scalars(select(Video))
        }


class Scripted(Counting):
    """Answers each prompt as told: an error is raised, anything else is the details of a clip."""

    answers: dict[str, Any]

    def generate(self, prompt: str, seed: int) -> Clip:
        answer = self.answers[prompt]
        if isinstance(answer, EvaluationError):
            raise answer
        return replace(super().generate(prompt, seed), details=answer)


def test_every_outcome_is_a_row_and_a_later_success_replaces_it(database: Database, tmp_path: Path) -> None:
    system = Scripted(size=32, num_frames=6, name="s")
    requested = {"width": 64, "height": 64, "fps": 12, "frames": 6}
    made = Details(
        model="m 1.2", cost=0.25, currency="USD", seed_used=False, requested=requested, remote_id="j7"
    )
    prompts = (*PROMPTS, "a small white star spinning on a sunset background")
    system.answers = dict(zip(prompts, (made, RefusedError("unsafe"), MissingError("none")), strict=True))

    def rows() -> list[tuple[Any, ...]]:
        make_videos(database, [system], prompts, folder=tmp_path / "v", progress=False)
        with database.reading() as session:
            found = session.scalars(select(Outcome).order_by(Outcome.prompt_id)).all()
            assert all((row.outcome == "made") == (row.video is not None) for row in found)
            return [(row.prompt.text, row.outcome, row.reason, row.model, row.seed_used) for row in found]

    refused = (prompts[1], "refused", "unsafe", "", True)
    assert rows() == [
        (prompts[0], "made", None, "m 1.2", False),
        refused,
        (prompts[2], "missing", "none", "", True),
    ]
    with database.reading() as session:
        row = session.get_one(Outcome, (1, 1, 0))
        assert (row.cost, row.currency, row.remote_id, row.attempts, row.device) == (
            0.25,
            "USD",
            "j7",
            1,
            "cpu",
        )
        assert row.requested == requested
        assert row.video is not None
        assert (row.video.width, row.video.frames, row.video.fps_num) == (32, 6, 30)
        assert row.seconds is not None
    system.answers[prompts[2]] = made
    assert rows()[1:] == [refused, (prompts[2], "made", None, "m 1.2", False)]


def test_every_combination_becomes_a_video_with_its_run(database: Database, tmp_path: Path) -> None:
    systems = [small("a"), small("b", size=48)]
    summary = make_videos(database, systems, PROMPTS, seeds=(0, 7), folder=tmp_path / "v", progress=False)
    assert (summary.made, summary.reused) == (8, 0)
    with database.reading() as session:
        videos = session.scalars(select(Video)).all()
        runs = session.scalars(select(Run)).all()
        assert len(videos) == 8
        assert {(run.system_id, run.seed, run.state) for run in runs} == {
            (system, seed, "finished") for system in (1, 2) for seed in (0, 7)
        }
        assert {video.run_id for video in videos} == {run.id for run in runs}
        assert runs[0].config == dict(systems[0].config)
        assert runs[0].packages["numpy"] == np.__version__
        [video] = [item for item in videos if (item.system.name, item.prompt_id, item.seed) == ("b", 2, 7)]
        assert (video.width, video.height, video.frames) == (48, 48, 6)
    files = [path for path in (tmp_path / "v").rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in files) == [".json"] * 8 + [".mp4"] * 8
    assert {path.stem for path in files if path.suffix == ".json"} == {
        path.stem for path in files if path.suffix == ".mp4"
    }


def test_nothing_is_made_twice_and_additions_are_the_difference(database: Database, tmp_path: Path) -> None:
    system = small()
    make_videos(database, [system], PROMPTS[:1], folder=tmp_path, progress=False)
    before = stored(database)
    summary = make_videos(database, [system], PROMPTS, folder=tmp_path, progress=False)
    assert (summary.made, summary.reused, system.made) == (1, 1, 2)
    assert before < stored(database)


def test_finished_file_without_a_row_is_taken_over(database: Database, tmp_path: Path) -> None:
    system = small()
    make_videos(database, [system], PROMPTS, folder=tmp_path / "v", progress=False)
    other = open_database(f"sqlite:///{tmp_path / 'other.db'}", create=True)
    make_videos(other, [system], PROMPTS, folder=tmp_path / "v", progress=False)
    assert system.made == 2
    assert stored(other) == stored(database)
    other.close()


def test_other_config_under_the_same_name_is_refused(database: Database, tmp_path: Path) -> None:
    make_videos(database, [small()], PROMPTS, folder=tmp_path, progress=False)
    before = stored(database)
    with pytest.raises(EvaluationError, match="two configs do not mix"):
        make_videos(database, [small(size=64)], PROMPTS, folder=tmp_path, progress=False)
    assert stored(database) == before


def test_imported_system_is_not_added_to(database: Database, tmp_path: Path) -> None:
    with database.session() as session:
        catalogue.ensure_system(session, "sprites:truth")
    with pytest.raises(EvaluationError, match="unknown config"):
        make_videos(database, [small()], PROMPTS, folder=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("systems", "prompts", "seeds", "message"),
    [
        ([], PROMPTS, (0,), "at least one system"),
        ([small()], [], (0,), "at least one prompt"),
        ([small()], PROMPTS, (), "at least one seed"),
        ([small()], ["  "], (0,), "empty prompt"),
        ([small(), small()], PROMPTS, (0,), "listed twice"),
        ([small()], PROMPTS, (1, 1), "listed twice"),
    ],
)
def test_impossible_requests_are_refused(
    database: Database, tmp_path: Path, systems: Any, prompts: Any, seeds: Any, message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        make_videos(database, systems, prompts, seeds=seeds, folder=tmp_path / "v", progress=False)
    assert not (tmp_path / "v").exists()


def test_place_that_cannot_be_written_is_one_sentence(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EvaluationError, match=r"cannot read .*file.*run the same command again"):
        make_videos(database, [small()], PROMPTS, folder=tmp_path / "file", progress=False)
    assert stored(database) == set()


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_runs import finish
finish(Path(sys.argv[1]))
"""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")


def finish(home: Path) -> None:
    """Make the videos of two systems and six prompts in ``home``."""
    prompts = [f"a large {colour} star spinning on a sunset background" for colour in COLOURS]
    systems = [SpritesTruth(size=48, num_frames=12, name=name) for name in ("a", "b")]
    home.mkdir(exist_ok=True)
    database = open_database(f"sqlite:///{home / 'run.db'}", create=True)
    make_videos(database, systems, prompts, folder=home / "videos", progress=False)
    database.close()


def kill_after(home: Path, files: int) -> None:
    """Begin ``finish`` in a process of its own and kill it when ``files`` videos are there."""
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here.parents[1])}
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(home), str(here)], env=environment)
    while len(list(home.rglob("*.mp4"))) < files and worker.poll() is None:
        time.sleep(0.002)
    worker.kill()
    assert worker.wait() == -signal.SIGKILL


def test_killed_run_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    kill_after(killed, 5)
    ends = []
    for home in (killed, calm):
        finish(home)
        database = open_database(f"sqlite:///{home / 'run.db'}")
        # Their bytes may differ: x264 is not always deterministic.
        ends.append({row[:3] for row in stored(database)})
        with database.reading() as session:
            assert {run.state for run in session.scalars(select(Run))} == {"finished"}
            for video in session.scalars(select(Video)):
                data = media.read(session, video.media_sha256)
                assert hashlib.sha256(data).hexdigest() == video.media_sha256
                with av.open(io.BytesIO(data)) as container:
                    assert sum(1 for _ in container.decode(video=0)) == video.frames == 12
        database.close()
    assert ends[0] == ends[1]
    assert len(ends[0]) == 12
    files = [sorted(path.relative_to(home) for path in home.rglob("*.mp4")) for home in (killed, calm)]
    assert files[0] == files[1]
    assert not list(killed.rglob(PARTIAL))
