"""Run a transaction again when the database asks for it."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from arena.database import Database

ATTEMPTS = 12
RETRY_STATES = ("40001", "40P01")  # PostgreSQL: serialization failure, deadlock
Result = TypeVar("Result")


def in_transaction(database: Database, work: Callable[[Session], Result]) -> Result:
    """Return what ``work`` returns once its transaction is committed; conflicts are tried again."""
    for attempt in range(ATTEMPTS):
        try:
            with database.session() as session:
                return work(session)
        except DBAPIError as error:
            last = attempt == ATTEMPTS - 1
            if last or not (isinstance(error, IntegrityError) or _transient(error)):
                raise
            time.sleep(random.uniform(0, 0.005 * 2**attempt))
    raise AssertionError("the last attempt returns or raises")


def _transient(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state in RETRY_STATES or "database is locked" in str(error.orig)
