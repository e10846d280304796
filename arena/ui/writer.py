"""One writer for a SQLite file: transactions that wait together are committed together, by one wait for the disk."""

import logging
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from arena.database import Database
from arena.errors import ArenaError

logger = logging.getLogger(__name__)

MOST_TOGETHER = 64
Result = TypeVar("Result")
Work = Callable[[Session], Any]


class GroupWriter:
    """Runs works one after the other in a thread of its own; each is answered once it is on disk.

    A work that is refused is rolled back by itself; the others of its group are not touched. Trouble with the
    database itself fails the whole group: SQLite may have rolled back everything by then, and a commit of
    nothing succeeds.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[tuple[Work, Future[Any]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="arena-writer")

    def run(self, work: Callable[[Session], Result]) -> "Future[Result]":
        """Queue a work and return what will hold its result after the commit."""
        future: Future[Result] = Future()
        self._waiting.append((work, future))
        self._thread.submit(self._drain)
        return future

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        self._thread.shutdown()

    def _drain(self) -> None:
        group: list[tuple[Work, Future[Any]]] = []
        while self._waiting and len(group) < MOST_TOGETHER:
            group.append(self._waiting.popleft())
        if not group:
            return  # an earlier call took this one's work along
        try:
            outcomes = self._commit([work for work, _ in group])
            for (_, future), (result, error) in zip(group, outcomes, strict=True):
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
        except SQLAlchemyError as error:  # nothing of the group is on disk
            logger.warning("a group of %d writes was not committed: %s", len(group), type(error).__name__)
            for _, future in group:
                future.set_exception(error)
        finally:
            unforeseen = RuntimeError("a write in the same group failed unforeseen")
            unforeseen.__cause__ = sys.exception()
            for _, future in group:
                if not future.done():
                    future.set_exception(unforeseen)

    def _commit(self, works: list[Work]) -> list[tuple[Any, Exception | None]]:
        outcomes: list[tuple[Any, Exception | None]] = []
        with self._database.session() as session:
            for work in works:
                try:
                    with session.begin_nested():
                        outcomes.append((work(session), None))
                except (ArenaError, IntegrityError) as error:
                    outcomes.append((None, error))
                session.expunge_all()  # each work reads what the former ones wrote, not what they held
        return outcomes
