"""Threats to what is stored: a full disk, an import that is killed, migrations."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import arena
from arena import media, migrations
from arena.assignment import lease
from arena.columns import now_utc
from arena.database import Database
from arena.exchange import import_votes
from arena.folders import import_videos
from arena.models import Import, ImportedVote, Media, Prompt, Study, System, Video, Vote
from arena.voting import submit

logger = logging.getLogger(__name__)
ROOT = Path(arena.__file__).resolve().parent.parent
FULL_DISK = """
import json, resource, signal, sys
from sqlalchemy.exc import OperationalError
from arena.assignment import lease
from arena.database import Database
from arena.voting import submit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
database, token = Database(sys.argv[1]), sys.argv[2]
acknowledged, refused, full = [], 0, True
size = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
for attempt in range(400):
    try:
        task = lease(database, token)
        if task is None:
            break
        submit(database, token=token, assignment=task.assignment, choice="left", client_token=task.left,
               comment="x" * 1500)
        acknowledged.append(task.left)
    except OperationalError:
        refused += 1
        if refused == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
print(json.dumps({"acknowledged": acknowledged, "refused": refused}))
"""


def test_threat_04_a_full_disk_acknowledges_nothing_it_did_not_store(
    database: Database, make_study, people
) -> None:
    make_study(database, prompts=60)
    (token,) = people(1)
    database.close()
    path = Path(str(sa.make_url(database.url).database))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, database.url, token, str(path.stat().st_size + 60_000)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["refused"] >= 3
    with database.reading() as session:
        stored = set(session.scalars(sa.select(Vote.client_token)))
    assert set(told["acknowledged"]) <= stored
    assert len(stored) == 60


def test_threat_24_an_import_killed_at_any_step_leaves_nothing(
    database: Database, tmp_path: Path, count
) -> None:
    header = "evaluator,prompt,candidate,competitor,verdict\n"
    path = tmp_path / "votes.csv"
    path.write_text(header + "".join(f"e{n},p{n},a,b,good\n" for n in range(30)), encoding="utf-8")
    database.close()
    killed = 0
    for step in range(1, 400):
        status = _import_and_die(database.url, step, lambda session: import_votes(session, path, "mine"))
        if not os.WIFSIGNALED(status):
            break
        killed += 1
        assert [count(model) for model in (Study, Import, ImportedVote)] == [0, 0, 0]
        database.close()
    assert killed >= 50
    assert [count(model) for model in (Study, Import, ImportedVote)] == [1, 1, 30]


def _import_and_die(
    url: str, step: int, bring_in: Callable[[Session], object], events: frozenset[str] = frozenset()
) -> int:
    """Import in a child that kills itself at its n-th statement or event of Python's; return how it ended."""
    child = os.fork()
    if child == 0:
        own = Database(url)
        steps = iter(range(1, 10**6))

        def die(*_: object) -> None:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(own.engine, "after_cursor_execute", die)
        sys.addaudithook(lambda event, _: die() if event in events else None)
        with own.session() as session:
            bring_in(session)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("store", ["in the database", "in a folder"])
def test_threat_24_videos_are_brought_in_whole_or_not_at_all(
    database: Database, make_clip, tmp_path: Path, count, store: str
) -> None:
    for number in range(6):
        make_clip(f"clips/prompt {number}-0.mp4", frames=2, seed=number)
    shelf = tmp_path / "shelf"
    keep_at = str(shelf) if store == "in a folder" else None

    def bring_in(session: Session) -> None:
        import_videos(session, tmp_path / "clips", system="ours", keep_at=keep_at)

    database.close()
    killed = 0
    for step in range(1, 400):
        if not os.WIFSIGNALED(
            _import_and_die(database.url, step, bring_in, frozenset({"open", "os.mkdir", "os.rename"}))
        ):
            break
        killed += 1
        assert [count(model) for model in (System, Prompt, Video, Media)] == [0, 0, 0, 0]
        database.close()
        _assert_whole(shelf)
    logger.info("killed at %d points of an import of 6 videos kept %s: nothing half-imported", killed, store)
    assert killed >= 50
    assert [count(model) for model in (System, Prompt, Video, Media)] == [1, 6, 6, 6]
    with database.reading() as session:
        for sha256 in session.scalars(sa.select(Video.media_sha256)):
            assert hashlib.sha256(media.read(session, sha256)).hexdigest() == sha256
    _assert_whole(shelf)


def _assert_whole(shelf: Path) -> None:
    """Every file under a final name holds what the name says; what was being written has another name."""
    for path in shelf.glob("*/*"):
        whole = hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert whole or path.name.endswith(".partial")


def test_threat_28_votes_go_through_migrations_unchanged(database: Database, make_study, people) -> None:
    make_study(database, prompts=3)
    (token,) = people(1)
    while (task := lease(database, token)) is not None:
        submit(database, token=token, assignment=task.assignment, choice="left", client_token=task.left)
    many = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        " INSERT INTO imported_votes (study_id, import_id, line, evaluator, candidate_id, competitor_id,"
        " criterion, raw_label, outcome, origin)"
        " SELECT 1, 1, i, 'e' || (i % 61), 1, 2, 'overall', 'good', 1 - i % 3, 'human' FROM n"
    )
    with database.session() as session:
        session.add(
            Import(study_id=1, kind="votes", source="f", sha256="0", rows=1, options={}, created_at=now_utc())
        )
        session.flush()
        session.execute(sa.text(many))
    database.close()
    before = _rows(database.url)
    migrations.downgrade(database.url, "0001")
    migrations.upgrade(database.url)
    assert _rows(database.url) == before
    assert before["imported_votes"][0] == 100_000
    with pytest.raises(sa.exc.IntegrityError, match="cannot change"), database.session() as session:
        session.execute(sa.text("UPDATE pairs SET expected = 1"))


def _rows(url: str) -> dict[str, tuple[int, str]]:
    """Return the number of rows of every table of votes and a digest of them."""
    engine = sa.create_engine(url)
    found = {}
    with engine.connect() as connection:
        for table in ("votes", "imported_votes", "assignments", "pairs", "imports", "audit_log", "media"):
            rows = connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY 1")).all()
            found[table] = (len(rows), hashlib.sha256(repr(rows).encode()).hexdigest())
    engine.dispose()
    return found
