"""What a run depends on fails: it ends in one sentence, and the same command goes on and ends like a calm run."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from arena.database import open_database
from arena.errors import DatabaseError
from evaluation.bench.manifest import Manifest
from evaluation.bench.run import run_bench
from evaluation.engine.store import StoreError
from evaluation.errors import EvaluationError


def noise(*, size: int = 32, asks: Path | None = None) -> str:
    options = f"{{size: {size}}}" if asks is None else f"{{size: {size}, asks: {asks}}}"
    return f"  noise: {{python: {{target: 'model.py:noise', options: {options}}}}}\n"


def answer(asks: Path, work: Callable[[], None]) -> threading.Thread:
    """Do ``work`` while the first video is being made."""

    def wait_and_do() -> None:
        while not asks.exists():
            time.sleep(0.01)
        work()
        Path(f"{asks}.answered").touch()

    thread = threading.Thread(target=wait_and_do, daemon=True)
    thread.start()
    return thread


def one_sentence(said: str) -> str:
    """Check that the last words of a command are one sentence without a traceback."""
    assert "Traceback" not in said
    *_, last = said.strip().splitlines()
    assert last.startswith("magicvideo: ")
    return last


@pytest.mark.slow
def test_full_disk_of_the_store(
    tmp_path: Path, bench: Any, contents: Any, files_of: Any, fails_under: Any
) -> None:
    calm, full = (bench(tmp_path / name, noise(size=640), count=2) for name in ("calm", "full"))
    run_bench(calm, progress=False)
    said = one_sentence(fails_under(full, 900))
    assert "cannot write" in said
    assert "run the same command again" in said
    assert Manifest(full.parent / "run").runs[-1]["state"] == "failed"
    run_bench(full, progress=False)
    assert contents(full.parent) == contents(calm.parent)
    assert files_of(full.parent) == files_of(calm.parent)


@pytest.mark.slow
def test_full_disk_of_the_database(tmp_path: Path, bench: Any, contents: Any, fails_under: Any) -> None:
    calm = bench(tmp_path / "calm", noise(size=128), count=12)
    run_bench(calm, progress=False)
    full = bench(tmp_path / "full", noise(size=128), count=12)
    file = full.parent / "run" / "magicvideo.db"
    file.parent.mkdir()
    open_database(f"sqlite:///{file}", create=True).close()
    assert "magicvideo.db" in one_sentence(fails_under(full, file.stat().st_size // 1024 + 16))
    run_bench(full, progress=False)
    assert contents(full.parent) == contents(calm.parent)


def test_store_that_takes_nothing(tmp_path: Path, bench: Any, contents: Any) -> None:
    file = bench(
        tmp_path, noise(), count=1, more="store: /sys/magicvideo-videos\n"
    )  # not even root may write there
    with pytest.raises(
        StoreError, match=r"cannot write /sys/magicvideo-videos.*: .*run the same command again"
    ):
        run_bench(file, progress=False)
    assert contents(tmp_path)["videos"] == []


def test_store_with_a_file_in_the_way(tmp_path: Path, bench: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    file = bench(tmp_path, noise(), count=1, more="store: file\n")
    with pytest.raises(StoreError, match=r"cannot read .*/file/.*: Not a directory; mend that and run"):
        run_bench(file, progress=False)


@pytest.mark.slow
def test_s3_that_does_not_answer(tmp_path: Path, bench: Any, contents: Any, files_of: Any, s3: Any) -> None:
    run_bench(bench(tmp_path / "calm", noise(), count=3), progress=False)
    asks = tmp_path / "asks"
    file = bench(tmp_path / "s3", noise(asks=asks), count=3, more=f"store: {s3.place}\n")
    helper = answer(asks, s3.stop)
    with pytest.raises(
        StoreError, match=rf"cannot write {s3.place}/noise.*Could not connect.*run the same command again"
    ):
        run_bench(file, progress=False)
    helper.join()
    with pytest.raises(StoreError, match=rf"cannot read {s3.place}/noise.*run the same command again"):
        run_bench(file, progress=False)
    s3.start_again()
    assert run_bench(file, progress=False).videos.made == 3
    calm, found = contents(tmp_path / "calm"), contents(tmp_path / "s3")
    assert found["media"] == calm["media"]
    assert len(s3.files()) == len(files_of(tmp_path / "calm"))


def test_s3_without_the_bucket_and_with_a_video_gone(tmp_path: Path, bench: Any, s3: Any) -> None:
    file = bench(tmp_path, noise(), count=1, more="store: s3://no-such-bucket/videos\n")
    with pytest.raises(StoreError, match=r"cannot write s3://no-such-bucket/videos/.*bucket does not exist"):
        run_bench(file, progress=False)
    assert "no-such-bucket" not in str(s3.client.list_buckets()["Buckets"])
    file = bench(tmp_path, noise(), count=1, more=f"store: {s3.place}\n")
    assert run_bench(file, progress=False).videos.made == 1
    [video] = [name for name in s3.files() if name.endswith(".mp4")]
    s3.client.delete_object(Bucket=s3.bucket, Key=f"videos/{video}")
    os.remove(tmp_path / "run" / "magicvideo.db")
    assert run_bench(file, progress=False).videos.made == 1
    assert video in s3.files()


def test_database_that_cannot_be_reached(tmp_path: Path, bench: Any) -> None:
    file = bench(tmp_path, noise(), count=1, more="database: postgresql://u:secret@127.0.0.1:1/x\n")
    with pytest.raises(DatabaseError, match=r"cannot reach the database postgresql.*u:\*\*\*@127\.0\.0\.1"):
        run_bench(file, progress=False)
    assert not list((tmp_path / "run").glob("videos/*"))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_database_that_is_lost_in_mid_run(
    tmp_path: Path, bench: Any, contents: Any, files_of: Any, database_url: str, postgresql_server: str
) -> None:
    name = sa.make_url(database_url).database
    server = sa.create_engine(postgresql_server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def tell(statement: str) -> None:
        with server.connect() as connection:
            connection.execute(sa.text(statement))

    def lose() -> None:
        tell(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        tell(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    asks = tmp_path / "asks"
    calm = bench(tmp_path / "calm", noise(asks=asks), count=3)
    Path(f"{asks}.answered").touch()
    run_bench(calm, progress=False)
    Path(f"{asks}.answered").unlink()
    file = bench(tmp_path / "lost", noise(asks=asks), count=3, more=f"database: {database_url}\n")
    helper = answer(asks, lose)
    with pytest.raises(DatabaseError, match="cannot reach the database postgresql"):
        run_bench(file, progress=False)
    helper.join()
    tell(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    run_bench(file, progress=False)
    assert contents(file.parent, database_url) == contents(calm.parent)
    assert files_of(file.parent) == files_of(calm.parent)


def test_reference_videos_that_have_gone_are_missed_before_anything_is_made(
    tmp_path: Path, bench: Any
) -> None:
    file = bench(tmp_path, noise(), count=1, more="metrics: [temporal]\nreference: real\n")
    with pytest.raises(EvaluationError, match=r"the folder of real videos .*/real holds no \.mp4 file"):
        run_bench(file, progress=False)
    assert not list((tmp_path / "run").glob("videos/*"))


def test_model_file_that_has_gone_is_noted_and_made_up_for(tmp_path: Path, bench: Any) -> None:
    file = bench(tmp_path, noise(), count=1)
    code = (tmp_path / "model.py").read_text()
    (tmp_path / "model.py").unlink()
    [note] = run_bench(file, progress=False).notes
    assert "noise: cannot load model.py:noise: there is no file" in note
    (tmp_path / "model.py").write_text(code)
    assert run_bench(file, progress=False).videos.made == 1


@pytest.mark.slow
def test_imported_videos_that_go_in_mid_run_are_noted_and_made_up_for(
    tmp_path: Path, bench: Any, prompts: Any, files_of: Any
) -> None:
    run_bench(bench(tmp_path / "source", noise(), count=2), progress=False)
    folder, other = tmp_path / "import", tmp_path / "elsewhere"
    folder.mkdir()
    names = [name for name in files_of(tmp_path / "source") if name.endswith(".mp4")]
    for prompt, name in zip(sorted(prompts(2)), sorted(names), strict=True):
        (tmp_path / "source" / "run" / "videos" / name).rename(folder / f"{prompt}-0.mp4")
    asks = tmp_path / "asks"
    systems = noise(asks=asks) + f"  old: {{imported: {{folder: {folder}}}}}\n"
    file = bench(tmp_path / "bench", systems, count=2)
    helper = answer(asks, lambda: folder.rename(other) and None)
    result = run_bench(file, progress=False)
    helper.join()
    assert (result.videos.made, result.videos.count("failed") + result.videos.count("missing")) == (2, 2)
    assert any(note.startswith("old: ") and str(folder) in note for note in result.notes)
    other.rename(folder)
    assert run_bench(file, progress=False).videos.made == 2


def test_prompt_file_that_has_gone(tmp_path: Path, bench: Any) -> None:
    file = bench(tmp_path, noise(), count=1)
    file.write_text(file.read_text().replace("prompts:\n", "prompts:\n  - file: gone.txt\n"))
    with pytest.raises(EvaluationError, match=r"cannot read prompts from .*gone\.txt"):
        run_bench(file, progress=False)
