"""An open study of stand-in clips, people in it, and browsers that ask and vote as the page does."""

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from arena.database import Database
from arena.studies import enrol
from arena.ui.routes import build_routes
from arena.ui.security import Guard
from arena.ui.service import Service

SECRET = "organiser-secret-for-tests"
JSON = {"X-Arena": "1"}


class Browser(TestClient):
    """A browser on the arena's routes."""

    def ask(self) -> dict:
        """Return the task that is open for this browser's person."""
        return self.post("/api/task", json={}, headers=JSON).json()["task"]

    def vote(self, ballot: dict):
        """Send a vote as the page does."""
        return self.post("/api/vote", json=ballot, headers=JSON)


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    """A SQLite database: what PostgreSQL does otherwise is tested with votes, tasks and constraints."""
    opened = Database(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def people(database: Database) -> Callable[..., list[str]]:
    """Let so many people into a study; returns their tokens."""

    def let_in(count: int, slug: str = "study") -> list[str]:
        with database.session() as session:
            return [enrol(session, slug).token for _ in range(count)]

    return let_in


@pytest.fixture
def count(database: Database) -> Callable[[type], int]:
    """Count the rows of a model."""

    def counted(model: type) -> int:
        with database.reading() as session:
            return session.scalar(sa.select(sa.func.count()).select_from(model)) or 0

    return counted


@pytest.fixture
def ballot() -> Callable[..., dict]:
    """Make the vote that a page would send on a task."""

    def made(task: dict, client_token: str = "click-0001", **changes: object) -> dict:
        times = {"rt_ms": 900, "watched_left_ms": 700, "watched_right_ms": 700}
        name = {"assignment": task["assignment"], "choice": "left", "client_token": client_token}
        return name | times | changes

    return made


@pytest.fixture
def client(database: Database, make_study) -> Iterator[Callable[..., Browser]]:
    """Browsers of an open study of four pairs; each call is another one."""
    make_study(database, votes_per_pair=2)
    service = Service(database=database, study="study", organiser_token=SECRET)
    made: list[Browser] = []

    def browser(token: str | None = None) -> Browser:
        app = Starlette(routes=build_routes(service), middleware=[Middleware(Guard)])
        made.append(Browser(app, base_url="http://127.0.0.1", follow_redirects=False))
        if token is not None:
            made[-1].cookies.set("arena_voter", token)
        return made[-1]

    yield browser
    for each in made:
        each.close()
