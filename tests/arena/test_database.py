"""URLs, settings, and the sentences for databases that cannot be used."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from arena.database import DEFAULT_URL, Database, open_database, resolve_url
from arena.errors import DatabaseError
from arena.models import System


def test_the_option_beats_the_environment_beats_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_url() == DEFAULT_URL
    monkeypatch.setenv("MAGICVIDEO_DB", "sqlite:///elsewhere.db")
    assert resolve_url() == "sqlite:///elsewhere.db"
    assert resolve_url("mine.db") == "sqlite:///mine.db"
    assert resolve_url("postgres://u@h/d") == "postgresql+psycopg://u@h/d"


def test_sqlite_keeps_every_commit_and_checks_foreign_keys(sqlite_url: str) -> None:
    with Database(sqlite_url).engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_reading_session_cannot_write(database: Database) -> None:
    with database.reading() as session, pytest.raises(DBAPIError):
        session.execute(sa.insert(System).values(name="ours", version=""))
    with database.session() as session:
        session.add(System(name="ours", version=""))
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count(System.id))) == 1


def test_a_block_that_fails_leaves_nothing(database: Database) -> None:
    def fail_after_writing() -> None:
        with database.session() as session:
            session.execute(sa.insert(System).values(name="ours", version=""))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_writing()
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count(System.id))) == 0


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlite:///{tmp}/nowhere/x.db", "folder of the database"),
        ("sqlite:///{tmp}", "is a folder"),
        ("sqlite:///{tmp}/text.db", "not a SQLite database"),
        ("sqlite://", "in memory"),
        ("://", "no database URL"),
        ("mysql://u@h/d", "neither SQLite nor PostgreSQL"),
        ("postgresql://u:secret@127.0.0.1:1/d", "cannot reach the database"),
    ],
)
def test_each_unfit_database_gets_one_sentence(tmp_path: Path, url: str, sentence: str) -> None:
    (tmp_path / "text.db").write_text("this is a text file, not a database" * 100, encoding="utf-8")
    with pytest.raises(DatabaseError, match=sentence) as caught:
        open_database(url.format(tmp=tmp_path), create=True)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_create_makes_a_new_database(tmp_path: Path) -> None:
    with open_database(str(tmp_path / "with space%20.db"), create=True).session() as session:
        session.add(System(name="ours", version=""))
