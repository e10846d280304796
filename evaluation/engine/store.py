"""Where videos and their records are kept: a folder, or any address fsspec knows.

Layout: ``SYSTEM-DIGEST/PROMPT-DIGEST-seedN.mp4``, its record of the same name in ``SYSTEM-DIGEST/records``. A video
is there when its record is. In a folder both appear by renaming, the record last; if a process dies between the
two, ``recover`` finishes what was complete and removes the rest.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from arena import storage
from evaluation.clips import PARTIAL
from evaluation.engine.record import Job, VideoRecord
from evaluation.engine.scratch import scratch_folder
from evaluation.errors import EvaluationError

RECORDS = "records"
BUCKETED = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")  # there, making a folder would make a bucket


class StoreError(EvaluationError):
    """The store cannot be read or written; the run stops and can be resumed."""


class VideoStore(Protocol):
    """Where a run keeps its videos."""

    place: str

    def record(self, job: Job) -> VideoRecord | None:
        """Return what became of a job, None if nothing yet."""
        ...

    def draft(self, job: Job) -> Any:
        """Return a context whose value is the path to write the video to before ``keep``."""
        ...

    def keep(self, job: Job, draft: Path, record: VideoRecord) -> None:
        """Keep a finished video and its record."""
        ...

    def note(self, job: Job, record: VideoRecord) -> None:
        """Keep the record of a job that gave no video."""
        ...

    def opened(self, job: Job) -> Any:
        """Return a context whose value is a local path of a kept video."""
        ...

    def url(self, job: Job) -> str:
        """Return the address of a kept video."""
        ...

    def recover(self) -> None:
        """Finish or remove what a killed process left."""
        ...


def open_store(place: str) -> "VideoStore":
    """Open a folder or an fsspec address such as ``s3://bucket/videos``."""
    if "://" not in place:
        return FolderStore(Path(place))
    parts = urlsplit(place)
    return FolderStore(Path(unquote(parts.path))) if parts.scheme == "file" else RemoteStore(place)


class FolderStore:
    """A folder, also one that several machines share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = str(folder)

    def video(self, job: Job) -> Path:
        """Return the path of a job's video."""
        return self.folder / job.folder / f"{job.stem}.mp4"

    def record(self, job: Job) -> VideoRecord | None:
        path = self._record(job)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(path, error, "read") from error
        record = VideoRecord.from_json(text, str(path))
        return record if record.outcome != "made" or self.video(job).exists() else None

    @contextmanager
    def draft(self, job: Job) -> Iterator[Path]:
        path = self._partial(job, ".mp4")
        _make(path.parent)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, job: Job, draft: Path, record: VideoRecord) -> None:
        promise = self._partial(job, ".json")
        target = self._record(job)
        _make(target.parent)
        try:
            _write(promise, record.to_json())
            os.replace(draft, self.video(job))
            os.replace(promise, target)
        except OSError as error:
            raise _unusable(target, error) from error

    def note(self, job: Job, record: VideoRecord) -> None:
        target, partial = self._record(job), self._partial(job, ".json")
        _make(target.parent)
        _make(partial.parent)
        try:
            _write(partial, record.to_json())
            os.replace(partial, target)
        except OSError as error:
            raise _unusable(target, error) from error

    @contextmanager
    def opened(self, job: Job) -> Iterator[Path]:
        yield self.video(job)

    def url(self, job: Job) -> str:
        return self.video(job).absolute().as_uri()

    def recover(self) -> None:
        for partial in self.folder.glob(f"*/{PARTIAL}"):
            for promise in partial.glob("*.json"):
                _fulfil(promise)
            shutil.rmtree(partial, ignore_errors=True)

    def _record(self, job: Job) -> Path:
        return self.folder / job.folder / RECORDS / f"{job.stem}.json"

    def _partial(self, job: Job, suffix: str) -> Path:
        return self.folder / job.folder / PARTIAL / f"{job.stem}.{os.getpid()}{suffix}"


def _fulfil(promise: Path) -> None:
    """Finish ``keep`` where the record was complete and the process died while renaming."""
    record = VideoRecord.from_json(promise.read_text(encoding="utf-8"), str(promise))
    home, stem = promise.parent.parent, promise.stem.rpartition(".")[0]
    draft, video = promise.with_suffix(".mp4"), home / f"{stem}.mp4"
    if draft.exists() and sha256_of(draft) == record.sha256:
        os.replace(draft, video)
    if record.outcome != "made" or (video.exists() and sha256_of(video) == record.sha256):
        (home / RECORDS).mkdir(exist_ok=True)
        os.replace(promise, home / RECORDS / f"{stem}.json")


class RemoteStore:
    """An address of fsspec; every object appears whole, the record after the video."""

    def __init__(self, place: str) -> None:
        """Open an address.

        Raises:
            StoreError: it is of an unknown kind, or a package for it is missing.
        """
        self.place = place.rstrip("/")
        try:
            import fsspec

            self.files, self.root = fsspec.core.url_to_fs(self.place)
        except ImportError as error:
            raise StoreError(
                f"{place}: this kind of address needs another package ({error}): pip install 'magicvideo[s3]'"
            ) from error
        except ValueError as error:
            raise StoreError(f"{place}: no such kind of address ({error})") from error

    def record(self, job: Job) -> VideoRecord | None:
        path = self._record(job)
        try:
            record = VideoRecord.from_json(self.files.cat_file(path).decode("utf-8"), path)
            if record.outcome == "made":
                self.files.info(
                    self._video(job)
                )  # exists() would call an address that does not answer absent
        except FileNotFoundError:
            return None
        except storage.failures() as error:
            raise _unusable(self._address(path), error, "read") from error
        return record

    @contextmanager
    def draft(self, job: Job) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
            yield Path(folder) / f"{job.stem}.mp4"

    def keep(self, job: Job, draft: Path, record: VideoRecord) -> None:
        with self._using(self._video(job)):
            self._make_folder(job)
            self.files.put_file(str(draft), self._video(job))
        self.note(job, record)

    def note(self, job: Job, record: VideoRecord) -> None:
        with self._using(self._record(job)):
            self._make_folder(job)
            self.files.pipe_file(self._record(job), record.to_json().encode())

    @contextmanager
    def opened(self, job: Job) -> Iterator[Path]:
        with self.draft(job) as path:
            with self._using(self._video(job), "read"):
                self.files.get_file(self._video(job), str(path))
            yield path

    def url(self, job: Job) -> str:
        return self._address(self._video(job))

    def recover(self) -> None:
        """Do nothing: an object without a record is written again under the same name."""

    def _make_folder(self, job: Job) -> None:
        if self.place.partition("://")[0] not in BUCKETED:
            self.files.makedirs(f"{self.root}/{job.folder}/{RECORDS}", exist_ok=True)

    @contextmanager
    def _using(self, path: str, doing: str = "write") -> Iterator[None]:
        try:
            yield
        except storage.failures() as error:
            raise _unusable(self._address(path), error, doing) from error

    def _address(self, path: str) -> str:
        return str(self.files.unstrip_protocol(path))

    def _video(self, job: Job) -> str:
        return f"{self.root}/{job.folder}/{job.stem}.mp4"

    def _record(self, job: Job) -> str:
        return f"{self.root}/{job.folder}/{RECORDS}/{job.stem}.json"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _unusable(path: Path | str, error: BaseException, doing: str = "write") -> StoreError:
    words = " ".join(str(getattr(error, "strerror", None) or error).split())
    return StoreError(f"cannot {doing} {path}: {words}; mend that and run the same command again")
