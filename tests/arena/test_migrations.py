"""Migrations up, down and up again on filled databases, and every way a database can be unfit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

import arena
from arena import migrations
from arena.database import open_database
from arena.errors import DatabaseError
from arena.models import Base, System

ROOT = Path(arena.__file__).resolve().parent.parent
LENGTHS = "SELECT table_name, column_name, character_maximum_length FROM information_schema.columns"


def _tables(url: str) -> set[str]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        names = set(sa.inspect(connection).get_table_names())
    engine.dispose()
    return names - {"alembic_version"}


def test_up_down_and_up_again_leaves_exactly_the_models(empty_url: str) -> None:
    assert migrations.current(empty_url) is None
    assert migrations.upgrade(empty_url) == migrations.head()
    assert _tables(empty_url) == set(Base.metadata.tables)
    migrations.check(empty_url)
    migrations.downgrade(empty_url)
    assert _tables(empty_url) == set()
    migrations.upgrade(empty_url)
    migrations.check(empty_url)


def test_a_filled_database_passes_the_check_and_can_be_taken_back(database, make_study) -> None:
    make_study(database)
    database.close()
    migrations.check(database.url)
    migrations.downgrade(database.url)
    assert _tables(database.url) == set()


def test_upgrading_again_changes_nothing_and_copies_nothing(sqlite_url: str, tmp_path: Path) -> None:
    assert migrations.upgrade(sqlite_url) == migrations.head()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.db"]


def test_a_database_newer_than_the_program_is_refused(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    for call in (open_database, migrations.upgrade, migrations.check, migrations.downgrade):
        with pytest.raises(DatabaseError, match=r"newer than this program.*9999"):
            call(database_url)


def test_tables_that_drifted_are_noticed(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE systems ADD COLUMN smuggled TEXT"))
    engine.dispose()
    with pytest.raises(DatabaseError, match="not those this program made"):
        migrations.check(database_url)


def test_lengths_are_those_of_the_models(database_url: str) -> None:
    declared = {
        (table.name, column.name): column.type.length
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, sa.String) and column.type.length
    }
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        found = {
            (table, column["name"]): column["type"].length
            for table in Base.metadata.tables
            for column in sa.inspect(connection).get_columns(table)
            if isinstance(column["type"], sa.String) and column["type"].length
        }
    engine.dispose()
    assert found == declared


def test_backup_is_a_database_with_the_same_rows(sqlite_url: str, tmp_path: Path) -> None:
    database = open_database(sqlite_url)
    with database.session() as session:
        session.add(System(name="ours", version=""))
    copy = migrations.backup(sqlite_url, tmp_path / "copy.db")
    with open_database(str(copy)).reading() as session:
        assert session.scalars(sa.select(System.name)).all() == ["ours"]
    with pytest.raises(DatabaseError, match="exists already"):
        migrations.backup(sqlite_url, copy)


def test_a_filled_file_is_copied_before_it_is_upgraded(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_database(sqlite_url).session() as session:
        session.add(System(name="ours", version=""))
    head = migrations.head()
    folder = tmp_path / "newer"
    folder.mkdir()
    for path in migrations.migrations_dir().rglob("*.py"):
        target = folder / path.relative_to(migrations.migrations_dir())
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "versions" / "v9000_next.py").write_text(
        f'import sqlalchemy as sa\nfrom alembic import op\n\nrevision = "9000"\ndown_revision = "{head}"\n\n\n'
        'def upgrade():\n    with op.batch_alter_table("systems") as batch:\n'
        '        batch.add_column(sa.Column("note", sa.Text()))\n',
        encoding="utf-8",
    )
    monkeypatch.setattr(migrations, "migrations_dir", lambda: folder)
    with pytest.raises(DatabaseError, match=f"is at revision {head}, this program needs 9000"):
        open_database(sqlite_url)
    assert migrations.upgrade(sqlite_url) == "9000"
    assert (tmp_path / f"study.before-{head}.db").is_file()
    engine = sa.create_engine(sqlite_url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT name, note FROM systems")).all() == [("ours", None)]
    engine.dispose()


def test_a_failing_migration_leaves_nothing_behind(empty_url: str, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "broken"
    (folder / "versions").mkdir(parents=True)
    source = migrations.migrations_dir()
    (folder / "env.py").write_text((source / "env.py").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "versions" / "v1.py").write_text(
        'import sqlalchemy as sa\nfrom alembic import op\n\nrevision = "1"\ndown_revision = None\n\n\n'
        'def upgrade():\n    op.create_table("half", sa.Column("id", sa.Integer))\n'
        '    op.execute("INSERT INTO nowhere VALUES (1)")\n',
        encoding="utf-8",
    )
    monkeypatch.setattr(migrations, "migrations_dir", lambda: folder)
    with pytest.raises(DatabaseError):
        migrations.upgrade(empty_url)
    assert _tables(empty_url) == set()


def test_several_programs_may_make_the_same_database_at_once(empty_url: str) -> None:
    script = "import sys; from arena import migrations; print(migrations.upgrade(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", script, empty_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(4)
    ]
    answers = [program.communicate(timeout=120) for program in programs]
    assert [out.strip() for out, _ in answers] == [migrations.head()] * 4, answers


def test_a_missing_database_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="magicvideo db upgrade"):
        open_database(f"sqlite:///{tmp_path / 'none.db'}")
    assert list(tmp_path.iterdir()) == []


def test_tables_of_another_program_are_left_alone(empty_url: str) -> None:
    engine = sa.create_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE votes (id INTEGER)"))
    engine.dispose()
    with pytest.raises(DatabaseError, match="another program made it"):
        migrations.upgrade(empty_url)
