"""Open a database: SQLite by default, PostgreSQL by URL, always with the settings that keep votes safe."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import DatabaseError as DriverError
from sqlalchemy.orm import Session, sessionmaker

from arena.errors import DatabaseError

DEFAULT_URL = "sqlite:///magicvideo.db"
URL_VARIABLE = "MAGICVIDEO_DB"
PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF")
BUSY_SECONDS = 30.0


def resolve_url(url: str | None = None) -> str:
    """Return the database URL to use: the one given, else ``$MAGICVIDEO_DB``, else ``magicvideo.db`` here.

    A plain path means a SQLite file; ``postgresql://`` means the psycopg 3 driver.
    """
    chosen = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    if "://" not in chosen:
        return f"sqlite:///{chosen}"
    for alias in ("postgres://", "postgresql://"):
        if chosen.startswith(alias):
            return "postgresql+psycopg://" + chosen.removeprefix(alias)
    return chosen


def parse_url(url: str) -> URL:
    """Parse a resolved URL, or say what a URL looks like."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseError(
            f"{url!r} is no database URL: expected sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise DatabaseError(
            f"{shown(url)} is neither SQLite nor PostgreSQL: use sqlite:///FILE or postgresql://..."
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise DatabaseError(
            "a database in memory would lose its votes: give a file, as in sqlite:///study.db"
        )
    return parsed


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL, None for another engine."""
    parsed = parse_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def shown(url: str) -> str:
    """Return a URL fit to be shown: without its password."""
    return make_url(url).render_as_string(hide_password=True)


def make_engine(url: str) -> Engine:
    """Create the engine of a resolved URL.

    SQLite: write-ahead log, every commit on disk (``synchronous=FULL``), foreign keys enforced, and writers
    that take their lock at once (``BEGIN IMMEDIATE``), since a reader that turns writer is refused without
    waiting. The busy timeout is 30 s. A connection with the execution option ``read_only`` cannot write.
    """
    if parse_url(url).get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        engine = create_engine(url, connect_args={"connect_timeout": 10}, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise DatabaseError(
            "PostgreSQL needs its driver: install it with `pip install 'magicvideo[postgres]'`"
        ) from error
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin or commit by itself
    _keep_write_ahead_log(connection)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _keep_write_ahead_log(connection: Any) -> None:
    """Switch the file to a write-ahead log, waiting here: SQLite's busy timeout leaves the switch out."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    read_only = bool(connection.get_execution_options().get("read_only"))
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("read_only"):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


class Database:
    """An open database: ``session()`` writes in one transaction, ``reading()`` reads from one snapshot."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = make_engine(url)
        self._writers = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(self.engine.execution_options(read_only=True), expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session that commits when the block ends and rolls back when it raises."""
        with self._writers() as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session of one snapshot in which the database refuses every write."""
        with self._readers() as session, session.begin():
            yield session

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()


def open_database(url: str | None = None, *, create: bool = False) -> Database:
    """Open a database that is ready for this program.

    Args:
        url: As for `resolve_url`.
        create: Make a missing or empty database by running the migrations.

    Raises:
        DatabaseError: It cannot be reached, has no tables, or is older or newer than the program.
    """
    from arena import migrations

    resolved = resolve_url(url)
    revision = migrations.current(resolved)
    if revision is None and create:
        migrations.upgrade(resolved)
    else:
        migrations.require_head(resolved, revision)
    return Database(resolved)


def unreachable(url: str, error: DriverError) -> DatabaseError:
    """Turn a driver's failure to connect into one sentence."""
    path = sqlite_path(url)
    if path is None:
        lines = str(getattr(error, "orig", error)).strip().splitlines() or ["no answer"]
        return DatabaseError(f"cannot reach the database {shown(url)}: {lines[-1].strip()}")
    if not path.absolute().parent.is_dir():
        return DatabaseError(f"the folder of the database {path} does not exist: make it first")
    if path.is_dir():
        return DatabaseError(f"{path} is a folder, not a database file")
    if "not a database" in str(error):
        return DatabaseError(f"{path} is not a SQLite database")
    return DatabaseError(f"cannot open the database {path}: {getattr(error, 'orig', error)}")
