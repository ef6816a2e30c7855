"""A run as one page: nothing is asked of a network, every formula is set, and it reads as the book does."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Error, sync_playwright

from vaebook_runner import html_page
from vaebook_runner.chapters import was_executed
from vaebook_runner.files import UsageError
from vaebook_runner.html_page import check_parts, write_html
from vaebook_runner.pdf import BROWSERS

ROOT = Path(__file__).parent.parent
CHAPTERS = ["05_gaussian_vae", "08_training"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from shutil import which

    with sync_playwright() as playwright:
        try:
            found = next(filter(None, map(which, BROWSERS)), None)
            chromium = playwright.chromium.launch(executable_path=found)
        except Error:
            pytest.skip("no Chromium here")
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=CHAPTERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / f"{request.param}.html"
    stored = ROOT / "notebooks" / f"{request.param}.ipynb"
    write_html(stored, f"notebooks/{request.param}", ROOT, path)
    return path


def test_it_opens_from_a_mail(written: Path, browser: Browser) -> None:
    page, asked, complaints = browser.new_page(), list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(written.as_uri())
    page.evaluate("MathJax.startup.promise")
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [written.as_uri()]
    assert complaints == []
    formulas = page.locator("mjx-container")
    assert formulas.count() > 100
    assert page.locator("[data-mjx-error], mjx-merror, [data-mml-node=merror]").count() == 0
    assert page.locator('mjx-container [fill="red"], mjx-container [stroke="red"]').count() == 0
    prose = page.locator(".jp-MarkdownCell").all_inner_texts()
    assert not [text for text in prose if re.search(r"\$|\\[a-zA-Z]|\{[a-z:]+\}`", text)]
    pictures = page.locator(".jp-RenderedImage img").evaluate_all(
        "all => all.map(img => [img.width, img.naturalWidth])"
    )
    assert pictures
    assert all(2 * shown <= drawn + 1 for shown, drawn in pictures)
    assert page.locator("details summary").count() > 3
    page.close()


def test_a_phone_need_not_scroll_sideways(written: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 375, "height": 800})
    page.goto(written.as_uri())
    page.evaluate("MathJax.startup.promise")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.close()


WIDER = """all => all.filter(part => part.scrollWidth > part.clientWidth + 1).map(
    part => [getComputedStyle(part).overflowX, part.textContent.slice(0, 60)])"""
WIDTHS = "all => all.map(svg => Math.round(svg.getBoundingClientRect().width))"


def test_code_and_formulas_wider_than_a_phone_scroll_and_keep_their_size(written: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(written.as_uri())
    page.evaluate("MathJax.startup.promise")
    unnumbered = page.locator('mjx-container[display="true"]:not([width]) > svg')
    before = unnumbered.evaluate_all(WIDTHS)
    page.set_viewport_size({"width": 375, "height": 800})
    wider = page.locator('pre, mjx-container[display="true"]').evaluate_all(WIDER)
    assert len(wider) > 20
    assert [part for part in wider if part[0] != "auto"] == []
    assert page.locator(".jp-InputArea-editor, .highlight").evaluate_all(WIDER) == []  # they would cut it off
    assert max(before) > 375
    assert unnumbered.evaluate_all(WIDTHS) == before
    page.close()


def test_on_paper_nothing_is_cut_off(written: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 718, "height": 1000})  # A4 within a browser's usual margins
    page.goto(written.as_uri())
    page.evaluate("MathJax.startup.promise")
    parts = page.locator('pre, mjx-container[display="true"]')
    assert parts.evaluate_all(WIDER)
    page.emulate_media(media="print")
    assert parts.evaluate_all(WIDER) == []
    page.close()


def test_it_has_the_chapter_s_title_and_says_what_its_pictures_show(written: Path, browser: Browser) -> None:
    stored = nbformat.read(ROOT / "notebooks" / f"{written.stem}.ipynb", as_version=4)
    drawing = [
        cell
        for cell in stored.cells
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    ]
    alts = {" ".join(cell.metadata["mystnb"]["image"]["alt"].split()) for cell in drawing}
    page = browser.new_page()
    page.goto(written.as_uri())
    assert page.title() == re.search("^# (.+)$", stored.cells[0].source, re.M)[1]
    pictures = page.locator(".jp-RenderedImage img").all()
    assert pictures
    assert {" ".join(picture.get_attribute("alt").split()) for picture in pictures} <= alts
    assert page.locator(".jp-InputPrompt:visible, .jp-OutputPrompt:visible").count() == 0
    page.close()


def test_a_run_may_write_it_anew(written: Path, tmp_path: Path) -> None:
    assert was_executed(written)
    (tmp_path / "letter.html").write_text("<p>by hand</p>")
    assert not was_executed(tmp_path / "letter.html")


@pytest.mark.parametrize("missing", ["nbconvert", "sphinx-mathjax-offline"])
def test_what_is_missing_is_named_before_anything_runs(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = html_page.find_spec
    monkeypatch.setattr(html_page, "find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(UsageError, match="install vaebook with its extra 'book'"):
        check_parts()
