"""Joining by a code in a real browser: made on the organiser's page, typed at /join, listed when it is used up."""

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

CODE = "blue harbour"


def _make_code(page: Page, visitor) -> None:
    visitor.wait_until_drawn()
    page.get_by_role("tab", name="Evaluators").click()
    for label, value in (("Code", CODE), ("Places", "1")):
        field = page.get_by_label(label, exact=True)
        field.focus()
        page.keyboard.press("Control+a")
        page.keyboard.type(value)
        page.keyboard.press("Tab")
        expect(field).to_have_value(value)
    page.get_by_role("button", name="Make the code").click()
    expect(page.get_by_text("1 person may join with this code.")).to_be_visible()


def _type(page: Page, code: str) -> None:
    field = page.get_by_label("Code you were given")
    expect(field).to_be_focused()
    page.keyboard.type(code)
    page.keyboard.press("Enter")


def test_a_code_from_the_organisers_page_lets_one_person_in(page, browser, address, visitor, watch) -> None:
    visitor.become_organiser()
    page.goto(f"{address}/?view=results")
    _make_code(page, visitor)
    table = page.locator("table", has_text="Places taken")
    expect(table).to_contain_text("0 of 1")
    expect(table).to_contain_text("open")

    somebody = browser.new_context().new_page()
    watch.follow(somebody)
    somebody.goto(f"{address}/join")
    _type(somebody, "red harbour")
    expect(somebody.get_by_role("heading", name="This code does not work")).to_be_visible()
    somebody.get_by_role("link", name="Type the code again").click()
    _type(somebody, f" {CODE.upper()} ")
    somebody.get_by_role("button", name="Start").click(timeout=90_000)
    expect(somebody.get_by_text("1 of 4")).to_be_visible()
    somebody.goto(f"{address}/join")
    _type(somebody, CODE)  # somebody who is in already stays who they are, and takes no second place
    expect(somebody.get_by_role("button", name="Start")).to_be_visible(timeout=90_000)
    somebody.context.close()

    late = browser.new_context().new_page()
    late.goto(f"{address}/join")
    _type(late, CODE)
    expect(late.get_by_role("heading", name="This code does not work")).to_be_visible()
    late.context.close()

    page.reload()
    visitor.wait_until_drawn()
    page.get_by_role("tab", name="Evaluators").click()
    expect(table).to_contain_text("1 of 1")
    expect(table).to_contain_text("used")
    assert [said for said in watch.complaints if "403" not in said] == []
