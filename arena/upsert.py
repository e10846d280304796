"""Insert rows that may be there already, on SQLite and PostgreSQL alike."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from arena.models import Base


def insert_missing(session: Session, model: type[Base], values: Mapping[str, Any]) -> bool:
    """Insert a row unless a unique constraint forbids it; return whether it is new.

    The answer comes from ``RETURNING``: row counts after ``ON CONFLICT`` differ by driver.
    """
    table = model.__table__
    assert isinstance(table, Table)  # every model here is mapped to one table
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
    return session.execute(statement.returning(*table.primary_key.columns)).first() is not None
