"""Temporary files that go when their process does, also when it is killed.

Each process has a folder that it holds by a lock, which the operating system drops when the process dies; what nobody
holds is removed when another process makes its own folder, and at the end of a run.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
import uuid
from functools import cache
from pathlib import Path

from evaluation.errors import EvaluationError

PREFIX = "magicvideo-scratch-"
LOCK = ".lock"


def scratch_file(suffix: str = ".mp4") -> Path:
    """Return the path of a new temporary file, which is not made.

    Raises:
        EvaluationError: no temporary file can be made on this machine.
    """
    return scratch_folder() / f"{uuid.uuid4().hex}{suffix}"


@cache
def scratch_folder() -> Path:
    """Return this process's folder for temporary files.

    Raises:
        EvaluationError: it cannot be made.
    """
    sweep()
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = os.open(folder / "new", os.O_CREAT | os.O_RDWR, 0o600)  # stays open as long as the process
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.replace(folder / "new", folder / LOCK)  # from here on others can tell that it is held
    except OSError as error:
        raise unusable(error) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sweep() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # held, somebody else's, or just being made


def unusable(error: OSError) -> EvaluationError:
    """Return the sentence for a temporary file that cannot be written."""
    return EvaluationError(
        f"cannot write temporary files in {tempfile.gettempdir()}: {error.strerror or error}; free some space or name "
        "another folder in TMPDIR"
    )
