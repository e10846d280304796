"""Looking closely: scrubbing, stepping and zooming move both videos together and count for nothing."""

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

PREPARED = "prepared_to_watch"
FRAME_S = 1 / 16
TIMES = "() => window.arenaVideos().map((video) => video.currentTime)"
PAUSED = "() => window.arenaVideos().every((video) => video.paused)"
WATCHED = "() => window.arenaVideos().map((video) => video.played.length && video.played.end(0))"
VIEWS = """() => window.arenaVideos().map((video) => {
  const cell = video.parentElement.getBoundingClientRect();
  const side = Math.min(cell.width, cell.height);
  const left = video.parentElement.dataset.side === 'left' ? cell.right - side : cell.left;
  const box = video.getBoundingClientRect();
  const { a: zoom } = new DOMMatrix(getComputedStyle(video).transform);
  const picture = zoom * side;
  const x = video.parentElement.dataset.side === 'left' ? box.right - picture : box.left;
  return [zoom, (left - x) / picture, (cell.top - box.top) / box.height];
})"""


def _view(page: Page) -> tuple[float, float, float]:
    """Return zoom, left and upper edge of what both videos show, in shares of the picture."""
    left, right = page.evaluate(VIEWS)
    assert left == pytest.approx(right, abs=0.005)
    return tuple(left)


def _times(page: Page) -> float:
    left, right = page.evaluate(TIMES)
    assert abs(left - right) < 1e-6
    return left


def test_scrubbing_and_stepping_move_both_and_do_not_count_as_watching(page, visitor, watch) -> None:
    visitor.prefer_calm()  # nothing plays by itself after the first time
    visitor.join()
    visitor.wait_until_open()
    page.keyboard.press("2")
    expect(page.get_by_text("2 of 4")).to_be_visible()
    expect(page.locator(".stage").get_by_role("button", name="Play")).to_be_visible()
    bar = page.get_by_role("slider", name="Position in both videos")
    box = bar.bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    assert _times(page) == pytest.approx(0.375, abs=0.02)  # of half a second
    assert page.evaluate(PAUSED)
    page.mouse.click(box["x"] + 0.98 * box["width"], box["y"] + box["height"] / 2)
    expect(page.get_by_role("button", name="About the same")).to_be_disabled()
    assert max(page.evaluate(WATCHED)) == 0
    bar.focus()
    page.keyboard.press("Home")
    assert _times(page) == 0
    expect(bar).to_have_attribute("aria-valuetext", "0.0 of 0.5 seconds")
    page.keyboard.press("ArrowRight")
    once = _times(page)
    assert once == pytest.approx(1.5 * FRAME_S)  # halfway through the second picture
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert _times(page) == pytest.approx(once)
    page.keyboard.press("2")  # too early: votes wait for the whole
    expect(page.get_by_text("2 of 4")).to_be_visible()
    page.keyboard.press("r")
    visitor.wait_until_open()
    for _ in range(8):
        page.keyboard.press(",")
    assert _times(page) == pytest.approx(FRAME_S / 2)  # the first picture, however long they had played
    page.locator("[data-act=ahead]").dispatch_event("click")  # hidden where nothing can hover
    assert _times(page) == pytest.approx(once)
    assert watch.complaints == []


def test_zooming_shows_the_same_part_of_both(page, visitor, watch) -> None:
    visitor.join()
    visitor.wait_until_open()
    zoom = page.get_by_role("button", name="Zoom")
    assert _view(page) == pytest.approx((1, 0, 0), abs=0.005)
    page.keyboard.press("z")
    expect(zoom).to_contain_text("2×")
    assert _view(page) == pytest.approx((2, 0.25, 0.25), abs=0.005)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert _view(page) == pytest.approx((2, 0.375, 0.375), abs=0.005)
    for _ in range(9):
        page.keyboard.press("Shift+ArrowLeft")
    assert _view(page)[1] == pytest.approx(0, abs=0.005)  # the edge of the picture stops the view
    left = page.locator("[data-side=left]").bounding_box()
    page.mouse.move(left["x"] + left["width"] - 40, left["y"] + left["height"] / 2)
    page.mouse.down()
    page.mouse.move(left["x"] + left["width"] - 120, left["y"] + left["height"] / 2, steps=4)
    page.mouse.up()
    assert 0 < _view(page)[1] < 0.5
    assert not page.evaluate(PAUSED)  # a drag is no click
    zoom.click()
    expect(zoom).to_contain_text("4×")
    right = page.locator("[data-side=right] video")
    cell = page.locator("[data-side=right]").bounding_box()
    place = {"clientX": cell["x"] + 20, "clientY": cell["y"] + 200, "bubbles": True}
    right.dispatch_event("dblclick", place)
    expect(zoom).to_contain_text("1×")
    right.dispatch_event("dblclick", place)
    assert _view(page)[:2] == pytest.approx((2, 0), abs=0.005)
    expect(page.get_by_text("1 of 4")).to_be_visible()  # none of the arrows was a choice
    page.keyboard.press("3")
    expect(page.get_by_text("2 of 4")).to_be_visible()
    assert _view(page) == pytest.approx((1, 0, 0), abs=0.005)  # a new pair is seen whole
    assert watch.complaints == []


def test_looking_closely_works_on_a_phone(page, visitor) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    visitor.join()
    visitor.wait_until_open()
    for name in ("Pause", "Slow", "Zoom"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box["height"] >= 44
        assert box["x"] + box["width"] <= 390
    assert page.get_by_role("slider").bounding_box()["width"] >= 60
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
