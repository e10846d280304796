"""A real browser on a served study: Chromium, or Firefox when ``MAGICVIDEO_TEST_BROWSER=firefox``."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from arena.ui.service import ORGANISER_COOKIE

PATIENCE_S = 180  # a busy machine is slow, not wrong
SECRET = "organiser-secret-for-tests"
FIND_VIDEOS = """window.arenaVideos = () => {
  const find = (root) => {
    const own = [...root.querySelectorAll('video')];
    const below = [...root.querySelectorAll('*')].filter((each) => each.shadowRoot);
    return own.concat(...below.map((each) => find(each.shadowRoot)));
  };
  return find(document);
};"""

CALM = "(prefers-reduced-motion: reduce)"
PREFER_CALM = f"""const ask = window.matchMedia.bind(window);
window.matchMedia = (query) => {{
  const answer = ask(query);
  return query === '{CALM}' ? Object.defineProperty(answer, 'matches', {{ value: true }}) : answer;
}};"""


@dataclass
class Watch:
    """Everything a page said and received; only Chromium tells what came over websockets."""

    tells_frames: bool
    complaints: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    responses: list = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.addresses.append(request.url))
        page.on("response", lambda response: self.responses.append(response))
        page.on("websocket", lambda socket: socket.on("framereceived", self._frame))

    def _frame(self, payload: str | bytes) -> None:
        self.frames.append(payload.encode() if isinstance(payload, str) else payload)


@dataclass
class Visitor:
    """Somebody in front of the page."""

    page: Page
    address: str
    setting: object

    def join(self) -> None:
        """Open a personal link and start."""
        self.page.goto(f"{self.address}/join/{self.setting.invite()}")
        expect(self.page.get_by_role("button", name="Start")).to_be_focused(timeout=90_000)
        self.page.keyboard.press("Enter")

    def prefer_calm(self) -> None:
        """Ask for reduced motion, before the page is opened; the system's Firefox cannot be told from outside."""
        self.page.emulate_media(reduced_motion="reduce")
        if not self.page.evaluate(f"matchMedia('{CALM}').matches"):
            self.page.add_init_script(PREFER_CALM)

    def wait_until_open(self) -> None:
        """Wait until the choices open."""
        expect(self.page.get_by_role("button", name="About the same")).to_be_enabled(timeout=90_000)

    def wait_until_stored(self) -> None:
        """Wait until the server has confirmed the last choice; the next pair is shown before that."""
        expect(self.page.locator(".arena")).to_have_attribute("data-sending", "false", timeout=90_000)

    def wait_until_drawn(self) -> None:
        """Wait until Streamlit has drawn its page: what is typed before that may be drawn over."""
        drawn = self.page.locator("[data-test-script-state=notRunning][data-test-connection-state=CONNECTED]")
        expect(drawn).to_have_count(1, timeout=90_000)

    def become_organiser(self) -> None:
        """Take the organiser's cookie along, as their link gives it."""
        self.page.context.add_cookies([{"name": ORGANISER_COOKIE, "value": SECRET, "url": self.address}])


@pytest.fixture
def address(setting, tmp_path: Path) -> Iterator[str]:
    """Where the study is served."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = "from evaluation.cli.arena import app; app()"
    options = ["--db", setting.url, "--port", str(port), "--admin-token", SECRET]
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        arguments = [sys.executable, "-c", command, "serve", *options]
        server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=output)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{base}/_stcore/health", server)
        yield base
    finally:
        server.terminate()
        server.wait(60)
    assert "Traceback" not in log.read_text("utf-8")


def _wait_for(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert server.poll() is None, "the arena ended before it served"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the arena did not start within {PATIENCE_S} seconds")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty tab of its own session."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_init_script(FIND_VIDEOS)
    yield context.new_page()
    context.close()


@pytest.fixture
def watch(page: Page, browser: Browser) -> Watch:
    """What the tab says and receives."""
    watching = Watch(tells_frames=browser.browser_type.name == "chromium")
    watching.follow(page)
    return watching


@pytest.fixture
def visitor(page: Page, address: str, setting) -> Visitor:
    """Somebody who has not opened their link yet."""
    return Visitor(page, address, setting)
