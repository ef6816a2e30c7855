"""The box above the page of checks: what is typed chooses rows, from a folder as well as from a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Locator, Page, expect
from test_hover import FOLDER
from test_pages import browser, pytestmark, visit

__all__ = ["browser", "pytestmark"]  # a fixture, and what the tests need
BOX = "Show the rows that contain"
# The text of each row that is shown, with the title of its chapter.
SHOWN = """() => [...document.querySelectorAll("tbody tr")].filter(row => row.checkVisibility()).map(
    row => `${row.closest("section").querySelector("h2").textContent} ${row.textContent}`.toLowerCase())"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        opened = visit(context, FOLDER)
        opened.open(f"{FOLDER}pages/checks.html")
        yield opened.page
        assert opened.remote + opened.troubles == []


def rows(page: Page) -> Locator:
    return page.locator("tbody tr")


@pytest.mark.parametrize(
    "words", [["monte", "carlo"], ["LINEAR", "symbolic"], ["three quadratures"], ["covariance", "≤"]]
)
def test_rows_with_all_the_words_are_left(page: Page, words: list[str]) -> None:
    everything = page.evaluate(SHOWN)
    assert len(everything) == rows(page).count() > 100
    parts = " ".join(words).lower().split()
    expected = [text for text in everything if all(part in text for part in parts)]
    page.get_by_label(BOX).fill("  ".join(words))
    assert page.evaluate(SHOWN) == expected != everything
    expect(page.get_by_role("status")).to_have_text(f"{len(expected)} of {len(everything)} rows")
    page.get_by_label(BOX).fill("")
    assert page.evaluate(SHOWN) == everything


def test_a_chapter_without_rows_disappears_and_the_keyboard_is_enough(page: Page) -> None:
    chapters = page.locator("main section section > h2:visible")
    before = chapters.count()
    for _ in range(200):
        if page.evaluate("document.activeElement.matches('.filter input')"):
            break
        page.keyboard.press("Tab")
    page.keyboard.type("dequantisation nats no such words")
    assert page.evaluate(SHOWN) == []
    expect(chapters).to_have_count(0)
    for _ in range(len("dequantisation nats no such words")):
        page.keyboard.press("Backspace")
    page.keyboard.type("museum")
    expect(chapters).to_have_count(1)
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    expect(chapters).to_have_count(before)


def test_a_link_to_a_hidden_row_shows_it(page: Page) -> None:
    page.get_by_label(BOX).fill("museum")
    place = page.locator("[id^=checked-eq-kl-gaussian]").first
    expect(place).to_be_hidden()
    page.evaluate("id => { location.hash = id; }", place.get_attribute("id"))
    expect(page.get_by_label(BOX)).to_have_value("")
    expect(place.locator("xpath=ancestor-or-self::tr")).to_be_in_viewport()


def test_without_scripts_all_rows_are_there_and_no_box(browser: Browser) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{FOLDER}pages/checks.html")
        expect(page.get_by_label(BOX)).to_be_hidden()
        expect(rows(page).last).to_be_visible()
