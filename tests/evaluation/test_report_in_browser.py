"""The page in a real Chromium: nothing is fetched or complains, clips play, dark, light and print work."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from arena import catalogue, exchange
from arena.database import open_database
from evaluation.report.build import build_report
from evaluation.report.html import to_html
from evaluation.runs import make_videos
from evaluation.systems.sprites_truth import SpritesTruth

PROMPT = "a large red star spinning on a sunset background"


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    database = open_database(f"sqlite:///{tmp_path / 'x.db'}", create=True)
    systems = [SpritesTruth(size=64, num_frames=30, name=name) for name in ("ours", "theirs")]
    make_videos(database, systems, [PROMPT], folder=tmp_path / "videos", progress=False)
    (tmp_path / "t.csv").write_text("candidate,competitor,good,same,bad\nours,theirs,60,20,20\n")
    with database.session() as session:
        exchange.import_counts(session, tmp_path / "t.csv", "table")
        for system in systems:
            [video] = catalogue.find_videos(session, system=system.name)
            catalogue.add_score(session, metric="clip", signature="clip|1", value=20.0, video=video)
    path = tmp_path / "report.html"
    path.write_text(to_html(build_report(database)), "utf-8")
    database.close()
    return path


@pytest.mark.browser
def test_page_opens_without_errors_plays_and_prints(page_file: Path, browser: Browser) -> None:
    page = browser.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_function("[...document.querySelectorAll('video')].every(video => video.readyState >= 2)")
    page.evaluate("Promise.all([...document.querySelectorAll('video')].map(video => video.play()))")
    page.wait_for_function("[...document.querySelectorAll('video')].every(video => video.currentTime > 0.1)")
    assert page.locator("video").count() == 2
    assert page.locator("h1").bounding_box()["y"] < 200
    back = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        back[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back["light"] != back["dark"]
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]  # nothing sticks out sideways
    page.emulate_media(media="print")
    assert page.locator("text=how evaluators were found").first.is_visible()
    assert len(page.pdf()) > 10_000
    page.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
