"""Run migrations on a connection of their own, all of them in one transaction.

On SQLite a batch migration drops and recreates tables, which would cascade or fail with foreign keys on,
and the driver would commit half a migration: here foreign keys are off, the transaction is explicit and
takes its lock at once, and every foreign key is checked before it commits.
"""

from typing import Any

from alembic import context
from sqlalchemy import Connection, Engine, create_engine, event, pool

import arena.outcomes
import arena.reservations  # noqa: F401 (their tables are part of the schema)
from arena.models import Base

URL_KEY = "url"


def _engine(url: str) -> Engine:
    engine = create_engine(url, poolclass=pool.NullPool)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            for pragma in ("busy_timeout=30000", "foreign_keys=OFF", "synchronous=FULL"):
                connection.execute(f"PRAGMA {pragma}").close()

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _check_foreign_keys(connection: Connection) -> None:
    """Refuse migrations that leave a row pointing at nothing."""
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise RuntimeError(
            f"the migrations leave {len(broken)} rows that point at nothing, first {broken[0]!r}"
        )


def _configure(**options: Any) -> None:
    context.configure(
        target_metadata=Base.metadata,
        render_as_batch=True,
        transactional_ddl=True,
        compare_type=True,
        **options,
    )


def run_online(url: str) -> None:
    """Migrate one database in one locked transaction, so that several programs at once do it once."""
    engine = _engine(url)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(6075124219)")
            _configure(connection=connection)
            context.run_migrations()
            if engine.dialect.name == "sqlite":
                _check_foreign_keys(connection)
    finally:
        engine.dispose()


database_url = context.config.attributes.get(URL_KEY) or context.config.get_main_option("sqlalchemy.url")
if not database_url:
    raise RuntimeError("no database URL: use `magicvideo db upgrade --db URL`")
if context.is_offline_mode():
    _configure(url=database_url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run_online(database_url)
