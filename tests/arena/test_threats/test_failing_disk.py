"""Acknowledged votes on a disk that fails: the power goes, or reads and writes end in errors.

A SQLite file system of our own (an apsw VFS) stands between the database and the disk. It knows what was synced;
when the power goes, any part of what was not may be gone, sector by sector and in any order. The votes go
through the program's own engine settings and through the writer of the server, each life in a process of its own.
"""

import logging
import os
import random
import secrets
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import SQLAlchemyError

from arena.assignment import turn_of
from arena.database import Database
from arena.models import Enrolment, Vote
from arena.studies import enrol
from arena.ui.writer import GroupWriter
from arena.voting import Ballot, submit_and_turn

logger = logging.getLogger(__name__)
SECTOR = 512
POWER_CUT = 77
VOTERS_AT_ONCE = 8
VOTES_EACH = 40
OPERATIONS_A_VOTE = 15
LOWERED = ("synchronous=NORMAL", "foreign_keys=ON", "trusted_schema=OFF")
Change = tuple[int, bytes | None]  # bytes written at an offset; None: the file was cut off there


class Disk:
    """What is safely on the disk of each file, and what was written since its last sync.

    Args:
        seed: Decides what survives and what fails.
        cut_after: Writes, truncations and syncs until the power goes; None for never.
        faults: Share of reads, writes and syncs that end in an error.
    """

    def __init__(self, seed: int, *, cut_after: int | None = None, faults: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.cut_after, self.faults, self.failed = cut_after, faults, 0
        self.synced: dict[str, bytearray] = {}
        self.unsynced: dict[str, list[Change]] = {}

    def opened(self, path: str) -> None:
        if path not in self.synced:
            self.synced[path] = bytearray(Path(path).read_bytes() if Path(path).exists() else b"")
            self.unsynced[path] = []

    def change(self, path: str, change: Change) -> None:
        self.unsynced[path].append(change)
        self._count()

    def sync(self, path: str) -> None:
        self._count()
        for change in self.unsynced[path]:
            _apply(self.synced[path], change)
        self.unsynced[path].clear()

    def maybe_fail(self) -> None:
        if self.faults and self.random.random() < self.faults:
            self.failed += 1
            raise apsw.IOError("an injected fault of the disk")

    def _count(self) -> None:
        if self.cut_after is None:
            return
        self.cut_after -= 1
        if self.cut_after < 0:
            self._lose_power()

    def _lose_power(self) -> None:
        """Leave on the disk what was synced and chance parts of the rest, and be gone."""
        kept = self.random.choice((0.0, self.random.random()))
        for path, image in self.synced.items():
            for offset, data in self.unsynced[path]:
                for part in _sectors(offset, data):
                    if self.random.random() < kept:
                        _apply(image, part)
            Path(path).write_bytes(image)
            Path(f"{path}-shm").unlink(missing_ok=True)  # lives in memory only
        os._exit(POWER_CUT)


def _sectors(offset: int, data: bytes | None) -> Iterator[Change]:
    if data is None:
        yield offset, None
        return
    for first in range(0, len(data), SECTOR):
        yield offset + first, data[first : first + SECTOR]


def _apply(image: bytearray, change: Change) -> None:
    offset, data = change
    if data is None:
        del image[offset:]
        return
    image.extend(b"\0" * max(0, offset + len(data) - len(image)))
    image[offset : offset + len(data)] = data


class LossyFile(apsw.VFSFile):
    """A file of the operating system whose changes are written down on a `Disk`."""

    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self.disk, self.path = disk, name.filename() if isinstance(name, apsw.URIFilename) else name
        disk.opened(self.path)
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self.disk.maybe_fail()
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self.disk.maybe_fail()
        self.disk.change(self.path, (offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self.disk.change(self.path, (newsize, None))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self.disk.maybe_fail()
        self.disk.sync(self.path)  # the real sync would only cost time: nobody cuts this machine's power


class LossyFileSystem(apsw.VFS):
    """The operating system's files, each a `LossyFile`."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        super().__init__("lossy", base="")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if name is None:  # a temporary file, which no power cut leaves behind
            return super().xOpen(name, flags)
        return LossyFile(self.disk, name, flags)


class ApswCursor:
    """The cursor that SQLAlchemy expects, over one of apsw."""

    arraysize = 1

    def __init__(self, database: apsw.Connection) -> None:
        self._database = database
        self._rows: Iterator[tuple[Any, ...]] = iter(())
        self.description: Any = None
        self.rowcount, self.lastrowid = -1, None

    def execute(self, statement: str, parameters: Any = ()) -> None:
        cursor = self._database.cursor()
        cursor.exec_trace = self._note_columns
        self._rows = iter(list(cursor.execute(statement, tuple(parameters))))
        self.rowcount, self.lastrowid = self._database.changes(), self._database.last_insert_rowid()

    def _note_columns(self, cursor: apsw.Cursor, *_: object) -> bool:
        self.description = cursor.description or None
        return True

    def executemany(self, statement: str, many: Any) -> None:
        for parameters in many:
            self.execute(statement, parameters)

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        return [row for row, _ in zip(self._rows, range(size), strict=False)]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)

    def close(self) -> None:
        self._rows = iter(())


class ApswConnection:
    """The connection that SQLAlchemy expects; commit and rollback do as those of the sqlite3 module."""

    isolation_level = None

    def __init__(self, path: str, timeout: float, **_: object) -> None:
        self._database = apsw.Connection(path, vfs="lossy")
        self._database.set_busy_timeout(int(1000 * timeout))

    def cursor(self) -> ApswCursor:
        return ApswCursor(self._database)

    def execute(self, statement: str) -> ApswCursor:
        cursor = self.cursor()
        cursor.execute(statement)
        return cursor

    def create_function(self, name: str, arguments: int, function: Callable[..., Any], **_: object) -> None:
        self._database.create_scalar_function(name, function, arguments)

    def commit(self) -> None:
        if not self._database.get_autocommit():
            self.execute("COMMIT")

    def rollback(self) -> None:
        if not self._database.get_autocommit():
            self.execute("ROLLBACK")

    def close(self) -> None:
        self._database.close()


class ApswDriver:
    """The module that SQLAlchemy expects of a SQLite driver."""

    paramstyle = "qmark"
    sqlite_version_info = tuple(map(int, apsw.sqlite_lib_version().split(".")))
    Error = OperationalError = ProgrammingError = apsw.Error
    connect = ApswConnection


class LossyDialect(SQLiteDialect_pysqlite):
    """SQLite by apsw, so that its files can be ours."""

    driver = "lossy"
    supports_statement_cache = True
    dbapi_exception_translation_map = {"ConstraintError": "IntegrityError", "Error": "OperationalError"}  # noqa: RUF012

    @classmethod
    def import_dbapi(cls) -> Any:
        return ApswDriver


registry.impls["sqlite.lossy"] = lambda: LossyDialect


def _vote_on(database: Database, tokens: list[str], acknowledge: Callable[[str], object]) -> int:
    """Let people vote through the server's writer, a few at once; return how many writes were refused."""
    writer, waiting, refused = GroupWriter(database), list(reversed(tokens)), 0
    works: dict[str, Any] = {}
    sent: dict[str, str] = {}
    while waiting or works:
        while waiting and len(works) < VOTERS_AT_ONCE:
            token = waiting.pop()
            works[token] = partial(turn_of, token=token, ahead=True)
        futures: dict[str, Future[Any]] = {token: writer.run(work) for token, work in works.items()}
        for token, future in futures.items():
            try:
                answer = future.result(60)
            except SQLAlchemyError:
                refused += 1  # the work stays and is sent again, as a browser does
                continue
            if token in sent:
                acknowledge(sent.pop(token))
            turn = answer[1] if isinstance(answer, tuple) else answer
            if turn.task is None:
                del works[token]
                continue
            sent[token] = secrets.token_hex(8)
            ballot = Ballot(assignment=turn.task.assignment, choice="left", client_token=sent[token])
            works[token] = partial(submit_and_turn, token=token, ballot=ballot, ahead=True)
    writer.close()
    return refused


def _live(url: str, tokens: list[str], disk: Disk) -> tuple[list[str], int]:
    """Vote in a child process until all is done or the power goes; return what it acknowledged and how it ended."""
    heard, spoken = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            registered = LossyFileSystem(disk)  # for as long as it is referred to
            database = Database(url.replace("sqlite:", "sqlite+lossy:"))
            refused = _vote_on(database, tokens, lambda name: os.write(spoken, f"{name}\n".encode()))
            os.write(spoken, f"{registered.disk.failed} {refused}\n".encode())
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    os.close(spoken)
    with os.fdopen(heard) as lines:
        acknowledged = lines.read().split("\n")[:-1]
    return acknowledged, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _cut_power(database: Database, make_study: Any, cuts: int, votes: int) -> tuple[int, int]:
    """Cut the power so often and until so many votes are acknowledged; return how many were, and how many are lost."""
    people = 13 * votes // (10 * VOTES_EACH) + VOTERS_AT_ONCE
    make_study(database, prompts=VOTES_EACH, votes_per_pair=people)
    with database.session() as session:
        tokens = [enrol(session, "study", pseudonym=f"{number:05}").token for number in range(people)]
    acknowledged: set[str] = set()
    generator = random.Random(cuts)
    for cut in count():
        if cut >= cuts and len(acknowledged) >= votes:
            break
        unfinished = _unfinished(database, tokens)
        database.close()
        disk = Disk(cut, cut_after=generator.randrange(2 * OPERATIONS_A_VOTE * votes // cuts))
        told, status = _live(database.url, unfinished, disk)
        assert status == POWER_CUT
        assert len(set(told)) == len(told)
        acknowledged |= set(told)
    with database.reading() as session:
        stored = set(session.scalars(sa.select(Vote.client_token)))
        per_task = sa.select(sa.func.count()).select_from(Vote).group_by(Vote.assignment_id)
        assert set(session.scalars(per_task)) <= {1}
    return len(acknowledged), len(acknowledged - stored)


def _unfinished(database: Database, tokens: list[str]) -> list[str]:
    """Check the file, then return the tokens of people who still have something to vote on."""
    with database.reading() as session:
        assert session.scalar(sa.text("PRAGMA integrity_check")) == "ok"
        done = session.scalars(sa.select(Enrolment.finished_at.is_not(None)).order_by(Enrolment.evaluator_id))
        return [token for token, finished in zip(tokens, done, strict=True) if not finished]


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    """A SQLite database, seen by the ordinary driver."""
    opened = Database(sqlite_url)
    yield opened
    opened.close()


def test_threat_02_a_power_cut_loses_no_acknowledged_vote(database: Database, make_study) -> None:
    acknowledged, lost = _cut_power(database, make_study, cuts=8, votes=200)
    logger.info("%d acknowledged votes, %d lost", acknowledged, lost)
    assert lost == 0


def test_threat_02_the_power_cut_is_felt_when_synchronous_is_lowered(
    database: Database, make_study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arena.database.PRAGMAS", LOWERED)
    acknowledged, lost = _cut_power(database, make_study, cuts=4, votes=100)
    logger.info("%d acknowledged votes, %d lost", acknowledged, lost)
    assert lost > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_threat_02_two_hundred_power_cuts_lose_none_of_fifteen_thousand_votes(
    database: Database, make_study
) -> None:
    acknowledged, lost = _cut_power(database, make_study, cuts=200, votes=15_000)
    logger.info("%d acknowledged votes, %d lost", acknowledged, lost)
    assert lost == 0


def test_threat_04_disk_errors_acknowledge_nothing_that_is_not_stored(database: Database, make_study) -> None:
    make_study(database, prompts=20, votes_per_pair=VOTERS_AT_ONCE)
    with database.session() as session:
        tokens = [enrol(session, "study").token for _ in range(VOTERS_AT_ONCE)]
    database.close()
    told, status = _live(database.url, tokens, Disk(seed=1, faults=0.03))
    assert status == 0
    *acknowledged, counts = told
    failed, refused = map(int, counts.split())
    assert failed >= 20
    assert refused >= 20
    with database.reading() as session:
        assert session.scalar(sa.text("PRAGMA integrity_check")) == "ok"
        stored = set(session.scalars(sa.select(Vote.client_token)))
    assert set(acknowledged) == stored
    assert len(acknowledged) == len(stored) == VOTERS_AT_ONCE * 20
