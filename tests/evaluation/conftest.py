"""Databases, an S3 server, and benches: written, run in processes that die, and read back."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select

from arena.database import Database, open_database
from arena.models import Media, Prompt, Run, Score, Video
from arena.models import System as SystemRow
from arena.outcomes import Outcome

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = ("star", "circle", "square", "heart", "cross")
MODEL = """
import os, signal, time
import numpy as np

def crash(prompt, seed):
    if "red" in prompt:
        os.kill(os.getpid(), signal.SIGSEGV)
    return np.full((6, 32, 32, 3), 90, np.uint8), 8

def fail(prompt, seed):
    raise RuntimeError("out of memory")

def hang(prompt, seed):
    time.sleep(600)

def flaky(prompt, seed, mark):
    if not os.path.exists(mark):
        open(mark, "w").close()
        raise ConnectionError("reset by peer")
    return np.full((6, 32, 32, 3), 120, np.uint8), 8

def bar(prompt, seed):
    from tqdm import tqdm

    return np.full((6, 32, 32, 3), 100 + len(list(tqdm(range(3)))), np.uint8), 8

def threads(prompt, seed, told):
    with open(told, "w") as file:
        file.write(os.environ["OMP_NUM_THREADS"])
    return np.full((6, 32, 32, 3), 90, np.uint8), 8

def noise(prompt, seed, size=32, asks=None):
    if asks and not os.path.exists(asks + ".answered"):
        open(asks, "w").close()
        while not os.path.exists(asks + ".answered"):
            time.sleep(0.02)
    return np.random.default_rng(len(prompt)).integers(0, 255, (6, size, size, 3), np.uint8), 8
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests of this folder two hours: on a busy machine minutes may become many."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(7200))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'test.db'}", create=True)
    yield opened
    opened.close()


def _prompts(count: int) -> list[str]:
    return [
        f"a large {COLOURS[i % 8]} {SHAPES[i // 8]} spinning on a sunset background" for i in range(count)
    ]


def _bench(
    folder: Path, systems: str, *, count: int = 3, seeds: str = "[0]", more: str = "", workers: int = 1
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MODEL)
    texts = json.dumps(_prompts(count))
    file = folder / "bench.yaml"
    file.write_text(
        f"folder: run\nsystems:\n{systems}prompts:\n  - texts: {texts}\nseeds: {seeds}\n"
        f"engine: {{workers: {workers}, timeout: 1800}}\n{more}"
    )
    return file


@pytest.fixture
def prompts() -> Callable[[int], list[str]]:
    """Return so many different prompts."""
    return _prompts


@pytest.fixture
def bench() -> Callable[..., Path]:
    """Write a bench file, and functions that serve as systems in ``model.py`` beside it."""
    return _bench


def _contents(folder: Path, url: str | None = None) -> dict[str, Any]:
    database = open_database(url or f"sqlite:///{folder / 'run' / 'magicvideo.db'}")
    with database.reading() as session:
        videos = [
            (v.system.name, v.system.config_digest, v.prompt.text, v.seed, v.media_sha256, v.frames, v.width)
            for v in session.scalars(select(Video))
        ]
        runs = [
            (name, r.config_digest, r.seed, r.state, r.device, r.git_commit, tuple(r.packages.items()))
            for r, name in session.execute(select(Run, SystemRow.name).join(SystemRow))
        ]
        outcomes = [
            (
                o.system.name,
                o.prompt.text,
                o.seed,
                o.outcome,
                o.reason,
                o.config_digest,
                o.model,
                o.device,
                o.seed_used,
                o.attempts,
                o.cost,
                json.dumps(o.requested),
                o.video and o.video.media_sha256,
            )
            for o in session.scalars(select(Outcome))
        ]
        found = {
            "systems": [
                (s.name, s.config_digest) for s in session.scalars(select(SystemRow).order_by(SystemRow.id))
            ],
            "prompts": list(session.scalars(select(Prompt.text).order_by(Prompt.id))),
            "media": sorted(session.scalars(select(Media.sha256))),
            "videos": sorted(videos),
            "outcomes": sorted(outcomes),
            "runs": sorted(runs),
            "scores": sorted(
                (s.metric, s.signature, str(s.value), s.reason or "") for s in session.scalars(select(Score))
            ),
        }
    database.close()
    return found


@pytest.fixture
def contents() -> Callable[..., dict[str, Any]]:
    """Return all rows of a bench's database by what they say, without times and the numbering of videos."""
    return _contents


def _files_of(folder: Path) -> list[str]:
    videos = folder / "run" / "videos"
    return sorted(str(path.relative_to(videos)) for path in videos.rglob("*") if path.is_file())


@pytest.fixture
def files_of() -> Callable[[Path], list[str]]:
    """Return every file of a bench's store."""
    return _files_of


def _start(file: Path, *prefix: str, **options: Any) -> subprocess.Popen[str]:
    """Begin ``magicvideo bench run`` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _search_path()}
    command = [*prefix, sys.executable, "-m", "evaluation.cli", "bench", "run", str(file), "-q"]
    return subprocess.Popen(command, env=environment, text=True, **options)


def _search_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Begin a bench in a process of its own."""
    return _start


@pytest.fixture
def fails_under() -> Callable[..., str]:
    """Run a bench where no file may be larger than so many KiB, and return what it says at its end."""

    def fail(file: Path, kibibytes: int) -> str:
        limit = ("bash", "-c", f'ulimit -f {kibibytes}; exec "$@"', "bash")
        with _start(file, *limit, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            _, said = process.communicate()
        assert process.returncode == 1
        return said

    return fail


DYING = """
import atexit, os, signal, sys, threading, time

point, pause, told, file = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4]
places = os.path.dirname(file), "magicvideo-scratch-"
seen = 0

def die():
    time.sleep(pause)
    os.kill(os.getpid(), signal.SIGKILL)

def count(event, values):
    global seen
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.scandir", "sqlite3.connect"):
        if any(place in str(values[0]) for place in places):
            seen += 1
            if seen == point:
                threading.Thread(target=die, daemon=True).start()

def tell():
    with open(told, "w") as target:
        target.write(str(seen))

sys.addaudithook(count)
atexit.register(tell)
sys.argv = ["magicvideo", "bench", "run", file, "-q"]
from evaluation.cli.main import main
main()
"""


class Killer:
    """Runs benches that kill themselves where they use their files; their workers die by themselves, soon after."""

    def __init__(self) -> None:
        self.sessions: list[int] = []

    def __call__(self, file: Path, point: int = 0, pause: float = 0.0) -> bool:
        """Tell whether the run was killed.

        Args:
            file: the bench.
            point: the run dies after that many uses of its files; never if 0.
            pause: seconds that it goes on meanwhile.
        """
        command = [sys.executable, "-c", DYING, str(point), str(pause), str(self._told(file)), str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _search_path()}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self.sessions.append(process.pid)
        status = process.wait()
        assert status in (0, -signal.SIGKILL)
        return status != 0

    def uses(self, file: Path) -> int:
        """Return how often the last run that came to its end used its files."""
        return int(self._told(file).read_text())

    def wait_for_workers(self) -> None:
        """Wait until no process of any run is left."""
        for session in self.sessions:
            with suppress(ProcessLookupError):
                while True:
                    os.killpg(session, 0)
                    time.sleep(0.05)

    def _told(self, file: Path) -> Path:
        return file.parent.with_name(f"{file.parent.name}-uses.txt")


@pytest.fixture
def killer() -> Killer:
    """Run benches and kill them."""
    return Killer()


class S3Server:
    """A real S3 server on loopback with one bucket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.server.start()
        _, self.port = self.server.get_host_and_port()
        self.bucket = f"bench-{uuid.uuid4().hex}"
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        self.client.create_bucket(Bucket=self.bucket)

    @property
    def client(self) -> Any:
        import boto3

        return boto3.client("s3")

    @property
    def place(self) -> str:
        return f"s3://{self.bucket}/videos"

    def files(self) -> list[str]:
        """Return every object below the place, as `_files_of` does."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return sorted(key.removeprefix("videos/") for key in keys)

    def stop(self) -> None:
        self.server.stop()

    def start_again(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A real S3 server on loopback; every client finds it by the environment."""
    from s3fs import S3FileSystem

    server = S3Server(monkeypatch)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    S3FileSystem.clear_instance_cache()
    yield server
    S3FileSystem.clear_instance_cache()
    server.stop()
