"""Stores and engines: whole or not at all, each video once, also when processes and nodes die."""

import hashlib
import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from arena.database import Database
from arena.models import Video
from evaluation.clips import PARTIAL
from evaluation.engine.make import make
from evaluation.engine.record import Job, VideoRecord, without_video
from evaluation.engine.store import FolderStore, RemoteStore, StoreError, VideoStore, open_store, sha256_of
from evaluation.errors import EvaluationError
from evaluation.runs import run_jobs
from evaluation.systems.base import (
    Clip,
    ClipFile,
    Details,
    MissingError,
    RefusedError,
    TransientError,
    digest_of,
)


class Scripted:
    """Does what its script says, one entry a call."""

    name, device = "scripted", "cpu"
    config: dict[str, Any] = {"kind": "scripted"}  # noqa: RUF012

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.config_digest = digest_of(self.config)

    def generate(self, prompt: str, seed: int) -> Clip | ClipFile:
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step


def clip(level: int = 90) -> Clip:
    details = Details(model="m 1", cost=0.5, currency="USD", requested={"width": 64.0}, seed_used=False)
    return Clip(np.full((4, 32, 32, 3), level, np.uint8), Fraction(8), details)


def job_of(system: Scripted, prompt: str = "a star") -> Job:
    return Job.of(system, prompt, 3)


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VideoStore]:
    if request.param == "folder":
        yield FolderStore(tmp_path / "videos")
        return
    remote = RemoteStore(f"memory://{tmp_path.name}/videos")
    yield remote
    remote.files.rm(remote.root, recursive=True)


def test_video_is_kept_with_all_that_is_known_of_it(store: VideoStore) -> None:
    system = Scripted(clip())
    job = job_of(system)
    assert store.record(job) is None
    made = make(system, job, store)
    assert store.record(job) == made
    assert (made.outcome, made.width, made.height, made.frames, made.fps) == ("made", 32, 32, 4, 8)
    assert (made.model, made.cost, made.currency, made.seed_used, made.attempts) == (
        "m 1",
        0.5,
        "USD",
        False,
        1,
    )
    assert made.requested == {"width": 64.0}
    assert made.seconds is not None
    with store.opened(job) as path:
        assert sha256_of(path) == made.sha256
    assert make(Scripted(), job, store) == made  # the empty script shows that nothing is asked


def test_refusal_and_absence_are_outcomes_and_only_the_refusal_is_settled(store: VideoStore) -> None:
    system = Scripted(RefusedError("unsafe"), MissingError("none"), clip())
    refused, missing = job_of(system), job_of(system, "another")
    assert make(system, refused, store).outcome == "refused"
    assert make(system, missing, store).outcome == "missing"
    assert make(system, refused, store).reason == "unsafe"
    assert make(system, missing, store).outcome == "made"


def test_transient_failures_are_tried_again_up_to_the_limit(store: VideoStore) -> None:
    system = Scripted(TransientError("busy", 0.0), ConnectionError("reset"), clip())
    made = make(system, job_of(system), store, pause=0)
    assert (made.outcome, made.attempts) == ("made", 3)
    system = Scripted(TransientError("busy"), TransientError("busy"))
    with pytest.raises(EvaluationError, match=r"busy \(tried 2 times\)"):
        make(system, job_of(system, "p"), store, attempts=2, pause=0)


def test_file_is_kept_byte_for_byte_and_what_is_no_video_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "videos")
    system = Scripted(clip())
    made = make(system, job_of(system), store)
    with store.opened(job_of(system)) as path:
        data = path.read_bytes()
    (tmp_path / "given.mp4").write_bytes(data)
    system = Scripted(ClipFile(tmp_path / "given.mp4"), ClipFile(tmp_path / "given.mp4", temporary=True))
    assert make(system, job_of(system, "p"), store).sha256 == made.sha256
    assert (tmp_path / "given.mp4").exists()
    make(system, job_of(system, "q"), store)
    assert not (tmp_path / "given.mp4").exists()
    (tmp_path / "text.mp4").write_text("no video")
    system = Scripted(ClipFile(tmp_path / "text.mp4"), ClipFile(tmp_path / "gone.mp4"))
    with pytest.raises(EvaluationError, match="no video that can be shown"):
        make(system, job_of(system, "r"), store)
    with pytest.raises(EvaluationError, match=r"gone\.mp4 has gone"):
        make(system, job_of(system, "s"), store)
    assert not list((tmp_path / "videos").rglob("*.part")) + list((tmp_path / "videos").rglob(f"{PARTIAL}/*"))


@pytest.mark.parametrize("moved", [False, True])
def test_death_between_the_renames_is_mended(tmp_path: Path, moved: bool) -> None:
    store = FolderStore(tmp_path)
    system = Scripted(clip())
    job = job_of(system)
    record = make(system, job, store)
    home = tmp_path / job.folder
    (home / PARTIAL).mkdir(exist_ok=True)
    os.replace(home / "records" / f"{job.stem}.json", home / PARTIAL / f"{job.stem}.77.json")
    if not moved:
        os.replace(home / f"{job.stem}.mp4", home / PARTIAL / f"{job.stem}.77.mp4")
    (home / PARTIAL / "half.78.mp4").write_bytes(b"half")
    assert store.record(job) is None
    store.recover()
    assert store.record(job) == record
    assert not (home / PARTIAL).exists()


def test_promise_without_its_video_is_forgotten(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    system = Scripted(clip())
    job = job_of(system)
    make(system, job, store)
    home = tmp_path / job.folder
    (home / PARTIAL).mkdir(exist_ok=True)
    os.replace(home / "records" / f"{job.stem}.json", home / PARTIAL / f"{job.stem}.77.json")
    (home / f"{job.stem}.mp4").write_bytes(b"other")
    store.recover()
    assert store.record(job) is None


def test_damaged_record_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    job = job_of(Scripted())
    store.note(job, without_video(job, "failed", "x"))
    path = tmp_path / job.folder / "records" / f"{job.stem}.json"
    path.write_text("{}")
    with pytest.raises(EvaluationError, match="is no record of a video"):
        store.record(job)


def test_addresses_choose_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path)), FolderStore)
    assert open_store((tmp_path / "a b").as_uri()).place == str(tmp_path / "a b")
    with pytest.raises(StoreError, match="no such kind of address"):
        open_store("nonsense://x")


def test_name_tells_system_prompt_and_seed_and_digests_keep_them_apart() -> None:
    job = Job(system="a/b", config_digest="0" * 64, prompt="A cat, on a mat!", seed=2, group="g")
    digest = hashlib.sha256(b"A cat, on a mat!").hexdigest()[:8]
    assert (job.folder, job.stem) == ("a-b-000000000000", f"A-cat-on-a-mat-{digest}-seed2")
    record = without_video(job, "failed", "x")
    assert VideoRecord.from_json(record.to_json(), "here") == record
    assert json.loads(record.to_json())["prompt"] == job.prompt


SLEEPER = """
import time
import numpy as np

def generate(prompt, seed):
    time.sleep(0.3)
    return np.full((4, 32, 32, 3), 90 + len(prompt) % 9, np.uint8), 8
"""


@pytest.mark.slow
def test_ray_cluster_of_two_nodes_loses_one_and_nothing_else(database: Database, tmp_path: Path) -> None:
    """Two nodes on loopback, one of them killed in the middle of the run. Needs the extra ``ray``."""
    from ray.cluster_utils import Cluster

    from evaluation.engine.ray_cluster import RayEngine
    from evaluation.engine.worker import WorkerSettings
    from evaluation.systems.python_function import PythonSpec, PythonSystem
    from evaluation.systems.specification import SystemSpec

    (tmp_path / "sleeper.py").write_text(SLEEPER)
    spec = PythonSpec(target="sleeper.py:generate")
    settings = WorkerSettings(
        systems={"s": SystemSpec(python=spec)}, store=str(tmp_path / "videos"), base=tmp_path
    )
    system = PythonSystem("s", spec, base=tmp_path)
    prompts = [f"prompt {index}" for index in range(24)]
    memory = 80 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": memory})
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=memory)
        cluster.wait_for_nodes(timeout=300)
        engine = _KillsNode(RayEngine(settings, address=cluster.address, crashes=3), cluster, second)
        store = FolderStore(tmp_path / "videos")
        summary = run_jobs(
            database, [system], prompts, seeds=(0,), store=store, engine=engine, progress=False
        )
    finally:
        cluster.shutdown()
    assert engine.killed
    assert sorted(record.prompt for record in summary.outcomes) == sorted(prompts)
    assert {record.outcome for record in summary.outcomes} == {"made"}
    with database.reading() as session:
        assert sorted(video.prompt.text for video in session.scalars(select(Video))) == sorted(prompts)
    assert len(list((tmp_path / "videos").rglob("*.mp4"))) == len(prompts)
    assert not list((tmp_path / "videos").rglob(PARTIAL))


class _KillsNode:
    """An engine whose second node is killed after the fifth video."""

    def __init__(self, engine: Any, cluster: Any, node: Any) -> None:
        self.engine, self.cluster, self.node, self.killed = engine, cluster, node, False

    def run(self, jobs: Any, store: VideoStore) -> Iterator[VideoRecord]:
        for number, record in enumerate(self.engine.run(jobs, store)):
            if number == 4:
                self.cluster.remove_node(self.node, allow_graceful=False)
                self.killed = True
            yield record
