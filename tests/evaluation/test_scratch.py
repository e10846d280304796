import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.engine import scratch
from evaluation.errors import EvaluationError

ROOT = Path(__file__).parents[2]
HOLDS = (
    "import sys; from evaluation.engine.scratch import scratch_file; "
    "path = scratch_file(); path.write_text('x'); print(path, flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch.scratch_folder.cache_clear()
    yield
    scratch.scratch_folder.cache_clear()


def begin(tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=pipe, stdout=pipe, text=True, env=environment
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_files_go_with_their_process_and_those_of_a_killed_one_with_the_next(tmp_path: Path) -> None:
    (ended, of_ended), (killed, of_killed), (alive, of_alive) = (begin(tmp_path) for _ in range(3))
    ended.communicate("")
    assert not of_ended.parent.exists()
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    killed.communicate()
    assert of_killed.exists()
    mine = scratch.scratch_file()
    mine.write_text("mine")
    assert not of_killed.parent.exists()
    scratch.sweep()
    assert of_alive.exists()
    assert mine.exists()
    alive.communicate("")
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [mine.parent]


def test_no_place_for_temporary_files_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        EvaluationError, match=r"cannot write temporary files in .*gone: No such file.*TMPDIR"
    ):
        scratch.scratch_file()
