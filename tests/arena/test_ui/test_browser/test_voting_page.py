"""The voting page in a real browser: a whole study by keyboard, clicks which survive a lost connection."""

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from sqlalchemy import select

from arena.models import Assignment, Vote

pytestmark = pytest.mark.browser

PREPARED = "prepared_to_watch"
SECRET = "organiser-secret-for-tests"
Test = Callable[..., Any]
NAMES = (b"zephyrine", b"quagmire")
PLAYED = """() => window.arenaVideos().every((video) => {
  const { played } = video;
  return played.length && played.end(played.length - 1) > 0.97 * video.duration;
})"""
LEFT_IS_RED = """() => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 8;
  const pixels = canvas.getContext('2d');
  pixels.drawImage(window.arenaVideos()[0], 0, 0, 8, 8);
  const [red, , blue] = pixels.getImageData(0, 0, 1, 1).data;
  return red > blue;
}"""


def votes_of(setting) -> list[Vote]:
    with setting.database.reading() as session:
        return list(
            session.scalars(
                select(Vote).join(Assignment, Assignment.id == Vote.assignment_id).order_by(Assignment.seq_no)
            )
        )


def drifts(page: Page) -> list[float]:
    script = "() => { const [l, r] = window.arenaVideos(); return Math.abs(l.currentTime - r.currentTime); }"
    measured = []
    for _ in range(20):
        measured.append(page.evaluate(script))
        page.wait_for_timeout(40)
    return measured


def test_whole_study_by_keyboard(setting, address, page, visitor, watch) -> None:
    waiting: list[Route] = []
    loading = False
    page.route("**/clips/**", lambda route: route.continue_() if loading else waiting.append(route))
    visitor.join()
    page.keyboard.press("1")  # too early: nothing has been watched
    expect(page.get_by_role("button", name="Left is better")).to_be_disabled()
    loading = True
    for route in waiting:
        route.continue_()
    clicks = []
    for number in range(4):
        expect(page.get_by_text(f"{number + 1} of 4")).to_be_visible(timeout=30_000)
        visitor.wait_until_open()
        if number == 1:
            assert median(drifts(page)) < 1 / 16
        left_is_red = page.evaluate(LEFT_IS_RED)
        choice = "same" if number == 2 else "left" if left_is_red else "right"
        for _ in range(3):  # an impatient voter
            page.keyboard.press({"left": "1", "same": "ArrowDown", "right": "ArrowRight"}[choice])
        clicks.append(choice)
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible(timeout=30_000)
    votes = votes_of(setting)
    assert [vote.raw_choice for vote in votes] == clicks
    assert [vote.outcome for vote in votes] == [1, 1, 0, 1]  # red is the candidate
    assert all(
        vote.watched_left_ms >= 300 and vote.watched_right_ms >= 300 and vote.rt_ms >= 400 for vote in votes
    )
    assert watch.complaints == []
    assert [url for url in watch.addresses if not url.startswith((address, "data:", f"blob:{address}"))] == []
    _assert_blind(watch)


def _assert_blind(watch) -> None:
    bodies = [each.body() for each in watch.responses if each.status == 200]
    headers = [str(each.headers).encode() for each in watch.responses]
    spoken = [*bodies, *headers, *watch.frames, *(url.encode() for url in watch.addresses)]
    assert sum(map(len, bodies)) > 10_000
    assert bool(watch.frames) == watch.tells_frames
    assert not [name for name in NAMES for text in spoken if name in text.lower()]


def of(prepared: str) -> Callable[[Test], Test]:
    """Run a test on another of the prepared studies."""

    def mark(test: Test) -> Test:
        test.prepared = prepared
        return test

    return mark


@of("prepared_in_full")
def test_from_link_to_finish_code_by_keyboard_with_everything_a_protocol_asks(
    setting, address, page, visitor, watch
) -> None:
    page.goto(f"{address}/join/{setting.invite()}")
    expect(page.get_by_role("button", name="I agree")).to_be_focused(timeout=30_000)
    assert "<b>x</b>" in page.locator(".consent-text").inner_text()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Start")).to_be_focused(timeout=30_000)
    assert "<i>Look closely.</i>" in page.locator(".instructions").inner_text()
    page.keyboard.press("Enter")
    visitor.wait_until_open()  # training
    expect(page.locator(".practice")).to_have_count(1)
    page.keyboard.press("1")
    expect(page.get_by_text("This was practice and is not counted.")).to_be_visible(timeout=30_000)
    page.keyboard.press("Enter")
    pressed, undone, rested = 0, False, 0
    done = page.get_by_role("heading", name="Thank you!")
    while not done.is_visible():
        expect(page.locator("[data-panel=vote].open, [data-panel=rest], [data-panel=done]")).to_have_count(
            1, timeout=30_000
        )
        if page.get_by_text("Time for a short break").is_visible():
            rested += 1
            expect(page.get_by_role("button", name="Go on", exact=True)).to_be_focused()
            page.keyboard.press("Enter")
            continue
        if done.is_visible():
            break
        before = page.locator(".count").inner_text()
        if pressed == 1 and not undone:
            page.keyboard.press("u")
            expect(page.get_by_text("This is your last pair again.")).to_be_visible(timeout=30_000)
            visitor.wait_until_open()
            undone = True
        if pressed == 2:
            page.keyboard.press("d")
            expect(page.get_by_role("button", name="frame quality: Left")).to_be_focused()
            page.keyboard.press("Enter")
            page.get_by_label("Comment").press_sequentially("blurry <b>123</b>")
            page.keyboard.press("Tab")
        page.keyboard.press("3")
        pressed += 1
        if undone and pressed == 2:
            continue
        expect(page.locator(".count")).not_to_have_text(before, timeout=30_000)
    expect(page.locator(".finish-code")).to_have_text("C0DE-7")
    link = page.get_by_role("link", name="Finish and go back")
    expect(link).to_be_focused()
    assert link.get_attribute("href") == "https://panel.example/complete?cc=C0DE-7"
    votes = votes_of(setting)
    overall = [vote for vote in votes if vote.criterion == "overall"]
    assert [vote.rev for vote in overall].count(1) == 1
    assert [vote.criterion for vote in votes].count("frame quality") == 1
    assert "blurry <b>123</b>" in {vote.comment for vote in votes}
    assert len({vote.assignment_id for vote in overall}) == 1 + 4 + 1  # training, real, gold
    assert rested == 1
    assert watch.complaints == []
    _assert_blind(watch)


def test_prompt_is_shown_as_text(page, visitor) -> None:
    visitor.join()
    seen = []
    for _ in range(4):
        visitor.wait_until_open()
        seen.append(page.locator(".prompt").inner_text())
        before = page.locator(".count").inner_text()
        page.keyboard.press("2")
        expect(page.locator(".count")).not_to_have_text(before)
    assert any("<script>alert(1)</script>" in text for text in seen)
    assert page.locator(".prompt").locator("*").count() == 0


def test_click_survives_lost_connection_and_reload(setting, page, visitor) -> None:
    visitor.join()
    visitor.wait_until_open()

    def refuse(route: Route) -> None:
        route.abort()

    page.route("**/api/**", refuse)
    page.get_by_role("button", name="Left is better").click()
    expect(page.get_by_text("No connection.")).to_be_visible(timeout=30_000)
    page.reload()
    assert votes_of(setting) == []
    page.unroute("**/api/**", refuse)
    expect(page.get_by_text("2 of 4")).to_be_visible(timeout=30_000)
    assert [vote.raw_choice for vote in votes_of(setting)] == ["left"]


def test_the_next_pair_is_there_before_the_choice_is_stored(setting, page, visitor, watch) -> None:
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    visitor.join()
    for number in (1, 2):  # the first pair comes with the page, the second one was loaded ahead
        visitor.wait_until_open()
        expect(page.get_by_text(f"{number} of 4")).to_be_visible()
        page.route("**/api/vote", hold)
        before = page.locator(".prompt").inner_text()
        page.keyboard.press("1")
        expect(page.get_by_text(f"{number + 1} of 4")).to_be_visible()
        assert page.locator(".prompt").inner_text() != before
        expect(page.locator(".stage.ready")).to_have_count(1)
        page.wait_for_function(PLAYED)
        assert len(votes_of(setting)) == number - 1
        page.keyboard.press("3")  # too early: the choice before it is not stored yet
        expect(page.get_by_role("button", name="About the same")).to_be_disabled()
        waiting.pop().continue_()
        page.unroute("**/api/vote", hold)
        visitor.wait_until_stored()
        assert [vote.raw_choice for vote in votes_of(setting)] == ["left"] * number
    visitor.wait_until_open()  # nobody was told that it was too soon
    expect(page.get_by_role("alert")).to_be_hidden()
    assert watch.complaints == []


def test_page_opens_registration_and_fits_a_phone(address, page, visitor) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(address)
    page.get_by_role("button", name="Take part").click(timeout=30_000)
    page.get_by_role("button", name="Start").click(timeout=30_000)
    visitor.wait_until_open()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    for name in ("Left is better", "About the same", "Right is better"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box["height"] >= 44
        assert box["y"] + box["height"] <= 844


def test_calm_voters_start_the_videos_themselves(page, visitor) -> None:
    visitor.prefer_calm()
    visitor.join()
    visitor.wait_until_open()
    page.keyboard.press("2")
    expect(page.get_by_text("2 of 4")).to_be_visible()
    expect(page.locator(".stage").get_by_role("button", name="Play")).to_be_visible()
    page.keyboard.press("Space")
    visitor.wait_until_open()


def test_calm_voters_who_start_before_the_videos_have_loaded_see_them_too(page, visitor) -> None:
    visitor.prefer_calm()
    waiting: list[Route] = []
    loading = False
    page.route("**/clips/**", lambda route: route.continue_() if loading else waiting.append(route))
    visitor.join()
    expect(page.get_by_role("button", name="About the same")).to_be_visible()
    assert waiting
    loading = True
    for route in waiting:
        route.continue_()
    visitor.wait_until_open()


def test_results_are_for_the_organiser_only(address, page, browser, visitor) -> None:
    visitor.join()
    visitor.wait_until_open()
    page.keyboard.press("2")
    expect(page.get_by_text("2 of 4")).to_be_visible()
    visitor.wait_until_stored()
    page.goto(f"{address}/?view=results")
    expect(page.get_by_text("This page is for the organiser.")).to_be_visible(timeout=30_000)
    assert "Zephyrine" not in page.content()
    page.goto(f"{address}/organiser/{SECRET}")
    expect(page.get_by_text("1 of 12")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("Results are hidden while the study is open")).to_be_visible(timeout=30_000)
    expect(page.locator(".mv-comparisons")).to_have_count(0)
    visitor.wait_until_drawn()
    page.get_by_role("tab", name="Evaluators").click()
    page.get_by_role("button", name="Make personal links").click()
    link = page.get_by_text(f"{address}/join/").inner_text(timeout=30_000)
    fresh = browser.new_context().new_page()
    fresh.goto(link.strip())
    expect(fresh.get_by_role("button", name="Start")).to_be_visible(timeout=30_000)
    fresh.context.close()
    visitor.wait_until_drawn()
    page.get_by_text("Yes, end it for good").click()
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("tab", name="Results").click(timeout=30_000)
    expect(page.locator(".mv-comparisons")).to_contain_text("Zephyrine-XL", timeout=30_000)
