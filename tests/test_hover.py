"""What a link to an equation shows: the equation, for mouse and keyboard, from a folder as well as from a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Locator, Page, expect
from test_pages import HTML, SIXTH, Visit, browser, pytestmark, visit

__all__ = ["browser", "pytestmark"]  # a fixture, and what the tests need
FOLDER = f"{HTML.as_uri()}/"
TIP = "[role=tooltip]#equation-tip"


@pytest.fixture(scope="module", params=[(1280, "light"), (375, "dark")], ids=["wide", "narrow"])
def sixth(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    width, scheme = request.param
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}) as context:
        opened = visit(context, FOLDER)
        opened.open(f"{FOLDER}{SIXTH}.html")
        expect(opened.page.locator("#equation-tip")).to_have_count(1)
        yield opened


@pytest.fixture
def page(sixth: Visit) -> Iterator[Page]:
    sixth.page.mouse.move(1, 450)
    yield sixth.page
    sixth.page.keyboard.press("Escape")
    assert sixth.remote + sixth.troubles == []


def elsewhere(page: Page) -> Locator:
    """A link to an equation of another page."""
    return page.locator("main a.reference.internal[href*='.html#equation-']").first


def here(page: Page) -> Locator:
    return page.locator("main a.reference.internal[href^='#equation-']").first


def from_keyboard(page: Page, link: Locator) -> None:
    """Focus as the Tab key gives it: a script's own focus shows only where keys were pressed."""
    page.keyboard.press("Shift")
    link.focus()


@pytest.mark.parametrize("link", [here, elsewhere])
def test_hovering_shows_the_equation_inside_the_window(page: Page, link: object) -> None:
    there, tip = link(page), page.locator(TIP)
    expect(tip).to_be_hidden()
    there.hover()
    expect(tip).to_be_visible()
    assert tip.locator("mjx-container[display=true]").count() == 1
    assert tip.locator("mjx-merror, [data-mml-node=merror]").count() == 0
    assert there.get_attribute("aria-describedby") == tip.get_attribute("id")
    box, width = tip.bounding_box(), page.viewport_size["width"]
    assert 0 <= box["x"] <= width - box["width"]
    assert 0 <= box["y"] <= 900 - box["height"]
    assert page.evaluate("document.scrollingElement.scrollWidth") == width
    # One may go over to the equation, and away.
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)
    page.wait_for_timeout(400)
    expect(tip).to_be_visible()
    page.mouse.move(1, 450)
    expect(tip).to_be_hidden()
    assert there.get_attribute("aria-describedby") is None


def test_the_keyboard_shows_it_and_escape_dismisses_it(page: Page) -> None:
    tip = page.locator(TIP)
    from_keyboard(page, elsewhere(page))
    expect(tip).to_be_visible()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    from_keyboard(page, here(page))
    expect(tip).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    expect(tip).to_be_hidden()


# What a screen reader would say, which does not depend on the size of the letters or on ids.
SPOKEN = "element => element.querySelector('mjx-container[display=true] math').textContent"


def test_it_is_the_equation_that_the_link_leads_to(page: Page) -> None:
    for link in (elsewhere(page), here(page)):
        from_keyboard(page, link)
        tip = page.locator(TIP)
        expect(tip).to_be_visible()
        shown = tip.evaluate(SPOKEN)
        chapter, place = link.get_attribute("href").split("#")
        page.keyboard.press("Escape")
        if not chapter:
            assert page.locator(f"#{place}").evaluate(SPOKEN) == shown
            continue
        with page.context.new_page() as other:
            other.goto(f"{FOLDER}notebooks/{chapter}")
            other.evaluate("MathJax.startup.promise.then(() => null)")
            assert other.locator(f"#{place}").evaluate(SPOKEN) == shown


def test_every_reference_to_an_equation_has_it(page: Page) -> None:
    references = page.locator("main a.reference.internal[href*='#equation-']")
    known = references.evaluate_all("links => links.map(link => !!EQUATIONS[link.hash.slice(1)])")
    assert len(known) > 20
    assert all(known)
