"""The rendered book as a reader meets it: each page in a real browser that reaches nothing but the book itself.

The tests look at the book in ``_build/html`` (``make book``), which they never build, with the system's Chromium.
"""

from __future__ import annotations

import functools
import html
import http.server
import io
import re
import shutil
import statistics
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="playwright is not installed")

import nbformat
from axe_playwright_python.sync_playwright import Axe
from book_pages import adapt_theme, fit_docstring, offer_downloads
from left_over import left_over
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

HTML = Path(__file__).parents[1] / "_build" / "html"
PAGES = sorted(path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html") if "_static" not in path.parts)
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIRST = "pages/intro.html"
MODULE = "pages/module.html"
SIXTH = "notebooks/06_reparametrisation"
EIGHTH = "notebooks/08_training.html"
BOX = "getBoundingClientRect()"

pytestmark = [
    pytest.mark.skipif(not PAGES, reason="no rendered book in _build/html: make book"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in the browser, and what it asked for or complained of."""

    page: Page
    remote: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.evaluate("(async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; })()")


def visit(context: BrowserContext, address: str) -> Visit:
    """A new page that can reach ``address`` and nothing else, and notes what goes wrong."""
    visit = Visit(context.new_page())

    def reach(route: object, request: object) -> None:
        if request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            visit.remote.append(request.url)
            route.abort()

    visit.page.route("**/*", reach)
    visit.page.on("pageerror", lambda error: visit.troubles.append(f"error: {error}"))
    visit.page.on("requestfailed", lambda request: visit.troubles.append(f"failed: {request.url}"))
    visit.page.on("response", lambda answer: answer.ok or visit.troubles.append(f"{answer.status}: {answer.url}"))
    visit.page.on(
        "console",
        lambda message: message.type in ("error", "warning") and visit.troubles.append(f"console: {message.text}"),
    )
    return visit


@pytest.fixture(scope="module", params=[page for page in PAGES if page != "index.html"])
def visited(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Visit]:
    """One page of the book after it has settled, in light mode at the width of a laptop."""
    with browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 900}) as context:
        opened = visit(context, address)
        opened.open(address + request.param)
        yield opened


# --- each page ---


RAW_TEX = r"""() => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) {
        const inside = texts.currentNode.parentElement;
        if (inside.closest("pre, code, script, style, noscript, mjx-container")) continue;
        if (/\\[a-zA-Z]{2,}|\\[()[\]]|\$\$|\{glue|\{eq\}|\{ref\}/.test(texts.currentNode.data)) found.push(texts.currentNode.data);
    }
    return found;
}"""


def test_each_formula_is_rendered(visited: Visit) -> None:
    page = visited.page
    assert page.evaluate(RAW_TEX) == []
    assert page.locator("mjx-merror, [data-mml-node=merror]").count() == 0
    unrendered = (
        "[...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container')).map(m => m.textContent)"
    )
    assert page.evaluate(unrendered) == []
    if "/notebooks/" in page.url:
        assert page.locator("mjx-container").count() > 5


OVERHANGING = """() => [...document.querySelectorAll("body *")].filter(element => {
    const { left, right, width } = element.getBoundingClientRect();
    if (width === 0 || right <= document.documentElement.clientWidth + 1) return false;
    for (let box = element; box !== document.body; box = box.parentElement)
        if (getComputedStyle(box).overflowX !== "visible" || getComputedStyle(box).position === "fixed") return false;
    return true;
}).map(element => element.outerHTML.slice(0, 120))"""


# Of each formula that a sign such as a full stop follows, or a bracket precedes, the text, if the two are on two lines.
BROKEN = r"""() => [...document.querySelectorAll("mjx-container:not([display], .wide)")].flatMap(formula => {
    const { previousSibling, nextSibling } = formula.closest(".math"), box = formula.getBoundingClientRect();
    const apart = (text, close, at) => {
        if (text?.nodeType !== Node.TEXT_NODE || !close.test(text.data)) return false;
        const sign = document.createRange();
        sign.setStart(text, at(text));
        sign.setEnd(text, at(text) + 1);
        const [{ top, bottom, left }] = sign.getClientRects();
        return top >= box.bottom || bottom <= box.top || (text === nextSibling) !== left > box.left;
    };
    const broken = apart(nextSibling, /^[.,;:!?)’”-]/, () => 0) || apart(previousSibling, /[(\[“‘]$/, text => text.length - 1);
    return broken ? [formula.closest("p, li, td, dd, figcaption").textContent.slice(0, 120)] : [];
})"""

# What can be scrolled sideways within the page, or lies in a box that cuts it off.
SCROLLING = """() => [...document.querySelectorAll("article :is(pre, mjx-container, div), .prev-next-area a")].filter(element => {
    const { overflowX, visibility } = getComputedStyle(element), { clientWidth, scrollWidth } = element;
    return overflowX !== "visible" && visibility === "visible" && clientWidth && scrollWidth > clientWidth + 1;
}).filter(element => !element.matches(".plane")).map(element => element.outerHTML.slice(0, 200))"""


def resize(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    # Side bars slide, and the page's own script answers to each step.
    page.evaluate("""async () => {
        const frame = () => new Promise(requestAnimationFrame);
        await frame();
        await frame();
        await Promise.allSettled(document.getAnimations().map(sliding => sliding.finished));
        await frame();
        await frame();
    }""")


def test_a_narrow_page_does_not_scroll_sideways(visited: Visit) -> None:
    page = visited.page
    resize(page, 375)
    assert page.evaluate(OVERHANGING) == []
    assert page.evaluate("document.scrollingElement.scrollWidth") == 375
    assert page.evaluate(BROKEN) == []
    # What was printed in sentences has broken into lines, the index is in one column, and titles of other pages fit.
    narrow = page.evaluate(SCROLLING)
    assert [element for element in narrow if 'class="sentences"' in element or "prev-next" in element] == []
    lefts = page.evaluate(f"() => [...document.querySelectorAll('.genindextable td')].map(cell => cell.{BOX}.left)")
    assert len(set(lefts)) <= 1


def test_nothing_scrolls_sideways_on_a_wide_window(visited: Visit) -> None:
    """Neither code nor what it printed, folded or not, nor formulas nor tables."""
    page = visited.page
    resize(page, 1280)
    page.evaluate("() => document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert page.evaluate(SCROLLING) == []
    page.evaluate("() => document.querySelectorAll('details').forEach(details => { details.open = false; })")


# A rule's cost grows with the number of elements, and a chapter has 15,000. A token's colour follows from its class alone, so
# that one token of each class will do; a formula within a line has the colour of its text, so that a box of its size will do.
THIN_OUT = """() => {
    const seen = new Set();
    for (const token of document.querySelectorAll(".highlight span")) {
        const kind = token.closest(".highlight").parentElement.className + token.className;
        if (token.className && !seen.has(kind)) seen.add(kind); else token.replaceWith(...token.childNodes);
    }
    for (const formula of document.querySelectorAll("mjx-container:not([display]) mjx-math")) {
        const box = document.createElement("span"), { width, height } = formula.getBoundingClientRect();
        Object.assign(box.style, { display: "inline-block", width: `${width}px`, height: `${height}px` });
        formula.replaceWith(box);
    }
}"""


@pytest.mark.parametrize("page", CHAPTERS)
def test_code_takes_a_third_of_a_page_at_most(browser: Browser, address: str, page: str) -> None:
    """On 1280 pixels; folded code takes no part in the third."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        opened = visit(context, address)
        opened.open(address + page)  # and its formulas are set
        height = opened.page.evaluate(f"() => document.querySelector('article.bd-article').{BOX}.height")
        in_sight = ".cell:not(.tag_hide-input, .tag_hide-cell) > .cell_input"
        code = opened.page.evaluate(f"() => [...document.querySelectorAll('{in_sight}')].map(e => e.{BOX}.height)")
        assert 0 < sum(code) < height / 3


def test_neighbouring_folds_are_one_and_say_what_they_open() -> None:
    """Code that is folded cell after cell stands behind one line; a line that opens output alone does not say code."""
    alone = re.compile(
        r'<div class="cell tag_hide-input[^>]*>\s*<details(?:(?!</details>).)*</details>\s*</div>\s*', re.S
    )
    kinds = set()
    for page in CHAPTERS:
        text = (HTML / page).read_text(encoding="utf-8")
        for cell in alone.finditer(text):
            assert not text.startswith('<div class="cell tag_hide-input', cell.end()), cell[0][:300]
        folds = re.findall(
            r'<details class="admonition hide (.*?)">.*?<p class="collapsed[^>]*>(.*?)</p>(.*?)</details>', text, re.S
        )
        for where, says, content in folds:
            has_code, has_output = "cell_input" in content, "cell_output" in content
            assert says == " and ".join(["code"] * has_code + ["output"] * has_output), (page, where)
            kinds.add(says)
    assert kinds == {"code", "output", "code and output"}


def test_columns_that_were_printed_stay_columns(browser: Browser, address: str) -> None:
    with browser.new_context(viewport={"width": 375, "height": 900}) as context:
        page = context.new_page()
        page.goto(f"{address}notebooks/02_maximum_likelihood.html")
        printed = page.locator("div.cell_output pre")
        columns, sentence = printed.filter(has_text="beta-binomial"), printed.filter(has_text="test images: h =")
        assert columns.evaluate("pre => getComputedStyle(pre).whiteSpace") == "pre"
        assert sentence.evaluate("pre => getComputedStyle(pre).whiteSpace") == "pre-wrap"


def test_a_comment_of_an_example_stands_close_to_it() -> None:
    lines = [">>> f(1)                  # one", "    >>> '#   x'    # two", "text     # three"]
    fit_docstring(None, "function", "f", None, None, lines)  # type: ignore[arg-type]
    assert lines == [">>> f(1)  # one", "    >>> '#   x'  # two", "text     # three"]


def test_a_tick_stands_apart_from_what_was_printed_and_a_part_s_name_in_one_line(
    browser: Browser, address: str
) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.goto(f"{address}notebooks/02_maximum_likelihood.html")
        gap = f"tick => tick.{BOX}.top - tick.previousElementSibling.{BOX}.bottom"
        ticks = page.locator("div.cell_output .output.stream + p").all()
        assert ticks
        assert all(tick.evaluate(gap) > 10 for tick in ticks)
        names = page.locator(".bd-links .caption-text")
        edge = page.locator(".bd-sidebar-primary").evaluate(f"bar => bar.{BOX}.right")
        assert max(name.evaluate(f"name => name.{BOX}.right") for name in names.all()) < edge - 10
        page.goto(address + FIRST)
        parts = page.locator("article td:first-child:has(> p:empty) + td strong").all()
        assert len(parts) == 4
        assert all(part.evaluate("name => name.getClientRects().length") == 1 for part in parts)


def test_frames_are_dim_in_the_dark(browser: Browser, address: str) -> None:
    with browser.new_context(color_scheme="dark") as context:
        page = context.new_page()
        page.goto(f"{address}{SIXTH}.html")
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        for selector, side in ((".cell_input", "borderRightColor"), (".bd-footer-content", "borderTopColor")):
            for (colour,) in looks(page, selector, side):
                assert max(map(float, re.findall(r"[\d.]+", colour)[:3])) < 110, (selector, colour)
        assert looks(page, ".cell_input", "borderLeftColor") != looks(page, ".cell_input", "borderRightColor")  # code


def test_the_fields_of_a_named_tuple_are_not_called_aliases() -> None:
    text = (HTML / MODULE).read_text(encoding="utf-8")
    assert "vaebook.estimates.Estimate.stderr" in text
    assert "Alias for field number" not in text


def barriers(page: Page, **options: object) -> list[str]:
    """What axe-core calls serious or critical, with the first elements that it found each in."""
    answer = Axe().run(page, options={"resultTypes": ["violations"], "preload": False, **options}).response
    return [
        f"{rule['id']}: {len(rule['nodes'])} times, as in {[node['html'][:120] for node in rule['nodes'][:3]]}"
        for rule in answer["violations"]
        if rule["impact"] in ("serious", "critical")
    ]


# One page of each kind, as axe takes seconds for a page, and what it judges (the theme, our styles, and what Sphinx and MyST
# make of a construct) is the same on all pages of a kind.
KINDS = [
    FIRST,  # prose, and tables of links
    EIGHTH,  # a chapter: code, formulas, figures, tables, exercises with answers to unfold
    "pages/checks.html",  # one long table of numbers, each a link
    "pages/explorer.html",  # something to operate, by mouse or keyboard
    MODULE,  # what autodoc makes of docstrings
    "pages/bibliography.html",  # a list of references
    "genindex.html",  # what Sphinx itself lays out
    "search.html",  # a form
]


@pytest.mark.parametrize("visited", KINDS, indirect=True)
def test_a_page_is_accessible_in_light_and_in_dark_mode(visited: Visit) -> None:
    page = visited.page
    resize(page, 1280)
    page.evaluate(THIN_OUT)
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert barriers(page) == []
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'", timeout=5000)
    page.evaluate("Promise.all(document.getAnimations().map(fading => fading.finished)).then(() => null)")
    # Colours are all that the two modes differ in.
    assert barriers(page, runOnly=["color-contrast"]) == []


# The last of a page's tests: it sees what the others made the page do.
def test_a_page_asks_for_nothing_remote_and_complains_of_nothing(visited: Visit) -> None:
    visited.page.wait_for_load_state("networkidle")
    assert visited.remote == []
    assert visited.troubles == []


# --- the book ---


class Anchors(HTMLParser):
    """The names that a page's places have, and what it links or shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.images: set[str] = set()
        self.feed((HTML / page).read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if "src" in given:
            self.links.add(given["src"])
            self.images |= {given["src"]} if tag == "img" else set()


@functools.cache
def anchors(page: str) -> Anchors:
    return Anchors(page)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    lost = []
    for link in anchors(page).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = ((HTML / page).parent / unquote(parts.path)).resolve() if parts.path else HTML / page
        if not target.is_file():
            lost.append(link)
        elif parts.fragment and target.suffix == ".html":
            places = anchors(target.relative_to(HTML).as_posix()).ids
            lost += [link] * (parts.fragment not in places)
    assert lost == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_and_its_pictures_are_below_two_megabytes(page: str) -> None:
    elsewhere = [source for source in anchors(page).images if not source.startswith("data:")]
    pictures = [(HTML / page).parent / source for source in elsewhere]
    assert sum(path.stat().st_size for path in [HTML / page, *pictures]) < 2_000_000


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_script_from_another_site(page: str) -> None:
    text = (HTML / page).read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]*src=.(https?:)?//", text)
    assert "thebe" not in text.lower()  # Jupyter Book adds it; it would load more from elsewhere.


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_is_offered_as_plain_notebook_and_as_myst(page: str) -> None:
    name = page.removesuffix(".html")
    for suffix in (".ipynb", ".md"):
        assert f"../_sources/{name}{suffix}" in anchors(page).links
    assert left_over(nbformat.read(HTML / "_sources" / f"{name}.ipynb", as_version=4)) == []
    assert "Reading time: about" in (HTML / page).read_text(encoding="utf-8")


CHAPTER_LINKS = "nav.bd-docs-nav a"
SECTION_LINKS = "nav.page-toc a"
# A place outside the window has no element, and a covered one has another.
IN_REACH = """([links, expected]) => expected === [...document.querySelectorAll(links)].some(link => {
    const { left, right, top, bottom } = link.getBoundingClientRect();
    return link.contains(document.elementFromPoint((left + right) / 2, (top + bottom) / 2));
})"""


@pytest.mark.parametrize("page", [FIRST, EIGHTH])
def test_side_bars_open_and_close(browser: Browser, address: str, page: str) -> None:
    with browser.new_context() as context:
        opened = visit(context, address)
        opened.open(address + page)
        for width in (375, 800):
            resize(opened.page, width)
            expect_no_header(opened.page)
            for kind, links in (("primary", CHAPTER_LINKS), ("secondary", SECTION_LINKS)):
                expect_in_reach(opened.page, links, False)
                opened.page.locator(f"button.{kind}-toggle:visible").click()
                expect_in_reach(opened.page, links, True)
                opened.page.keyboard.press("Escape")
                expect_in_reach(opened.page, links, False)
            # A choice closes the drawer too, which would hide what was chosen.
            opened.page.locator("button.secondary-toggle:visible").click()
            opened.page.locator(SECTION_LINKS).last.click()
            expect_in_reach(opened.page, SECTION_LINKS, False)
            place = opened.page.locator(SECTION_LINKS).last.get_attribute("href")
            expect(opened.page.locator(f"section{place} > :is(h2, h3)").first).to_be_in_viewport()
        # Where there is room, both side bars are there, and the one with the chapters can be put away.
        resize(opened.page, 1280)
        expect_no_header(opened.page)
        expect_in_reach(opened.page, SECTION_LINKS, True)
        for shown in (True, False, True):
            expect_in_reach(opened.page, CHAPTER_LINKS, shown)
            opened.page.locator("button.primary-toggle:visible").click()
        assert opened.remote + opened.troubles == []


def expect_no_header(page: Page) -> None:
    """The theme's header is empty: it takes no room, and the only search box is the one in the side bar."""
    assert page.locator("header.bd-header").evaluate("header => header.offsetHeight") == 0
    assert page.locator("button.search-button-field").count() == 1


def expect_in_reach(page: Page, links: str, expected: bool) -> None:
    page.wait_for_function(IN_REACH, arg=[links, expected], timeout=10_000)


# Of each figure its width with its frame, which dark mode has, the size within, how large it was drawn, and its room.
SIZES = """() => [...document.querySelectorAll("div.cell_output img")].filter(image => image.checkVisibility()).map(image => {
    const within = element => {
        const { width, height, paddingLeft, paddingRight, paddingTop, paddingBottom } = getComputedStyle(element);
        const [wide, high, left, right, top, bottom] =
            [width, height, paddingLeft, paddingRight, paddingTop, paddingBottom].map(parseFloat);
        return [wide - left - right, high - top - bottom];
    };
    return [image.offsetWidth, ...within(image), image.naturalWidth, image.naturalHeight, within(image.parentElement)[0]];
})"""


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_figures_are_as_large_as_drawn_even_before_they_arrive(
    browser: Browser, address: str, width: int, scheme: str
) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page, waiting = context.new_page(), []
        page.route("**/_images/*", lambda picture: waiting.append(picture))
        page.goto(address + EIGHTH, wait_until="domcontentloaded")
        before = page.evaluate(SIZES)
        assert len(before) > 5
        assert all(figure[3] == 0 for figure in before)
        for picture in waiting:
            picture.continue_()
        page.wait_for_load_state("load")
        after = page.evaluate(SIZES)
        for framed, wide, high, columns, rows, room in after:
            assert framed == pytest.approx(min(columns / 2, room), abs=1)
            assert high == pytest.approx(wide * rows / columns, abs=1)
        for here, there in zip(before, after, strict=True):
            assert here[:3] == pytest.approx(there[:3], abs=1)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """WCAG's relative luminance of red, green and blue in [0, 255], ``(..., 3)`` -> ``(...)``."""
    share = pixels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_figure_has_the_page_s_paper_and_ink_that_stands_out(
    browser: Browser, address: str, width: int, scheme: str
) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(address + EIGHTH)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        figure = page.locator("div.cell_output img:visible").first
        shot = Image.open(io.BytesIO(figure.screenshot())).convert("RGB")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    pixels = np.asarray(shot, dtype=float)
    corners = pixels[[2, 2, -3, -3], [2, -3, 2, -3]]
    np.testing.assert_allclose(corners, [[float(part) for part in re.findall(r"\d+", paper)]] * 4, atol=2)
    light = luminance(pixels)
    assert (light.max() + 0.05) / (light.min() + 0.05) > 7  # text and paper
    assert (np.median(light) < 0.05) == (scheme == "dark")


def found(browser: Browser, address: str, word: str) -> tuple[list[str], list[str]]:
    """The pages that the search lists for a word, and what went wrong meanwhile."""
    with browser.new_context() as context:
        searching = visit(context, address)
        searching.page.goto(f"{address}search.html?q={word}")
        searching.page.locator("#search-results .search-summary", has_text=re.compile("found|did not")).wait_for()
        links = searching.page.locator("#search-results li a").all()
        return [link.get_attribute("href") or "" for link in links], searching.remote + searching.troubles


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("reparameterization trick", f"{SIXTH}.html#equation-eq-reparametrisation"),
        ("reparametrisation trick", f"{SIXTH}.html#equation-eq-reparametrisation"),
        ("Reparametrization", f"{SIXTH}.html#equation-eq-reparametrisation"),
        ("reparameterisation", f"{SIXTH}.html#equation-eq-reparametrisation"),
        ("ELBO", "notebooks/04_elbo.html#equation-def-elbo"),
        ("evidence lower bound", "notebooks/04_elbo.html#equation-def-elbo"),
        ("KL", "notebooks/01_kl.html#equation-def-kl"),
        ("KL divergence", "notebooks/01_kl.html#equation-def-kl"),
        ("posterior collapse", "notebooks/07_loss.html#sums-and-means"),
        ("vae", "notebooks/05_gaussian_vae.html#the-gaussian-vae-and-its-kl"),
        ("amortization gap", "notebooks/12_covariance.html#equation-eq-cov-gap-split"),
        ("regularizer", "notebooks/09_autoencoder.html#equation-eq-auto-penalty"),
        ("elbo_from_loss", f"{MODULE}#vaebook.objectives.elbo_from_loss"),
    ],
)
def test_search_begins_with_the_place_that_a_reader_means(
    browser: Browser, address: str, words: str, place: str
) -> None:
    links, troubles = found(browser, address, words)
    assert links[0] == place
    assert troubles == []


def test_search_leaves_words_alone_that_the_book_spells_with_a_z(browser: Browser, address: str) -> None:
    links, _ = found(browser, address, "batch size")
    assert links[0] == f"{SIXTH}.html#why-one-draw-is-enough"


def test_the_book_opens_from_a_folder(browser: Browser) -> None:
    folder = f"{HTML.as_uri()}/"
    links, troubles = found(browser, folder, "reparametrisation")
    assert any(link.startswith(f"{SIXTH}.html") for link in links)
    assert troubles == []
    with browser.new_context() as context:
        opened = visit(context, folder)
        opened.open(f"{folder}{SIXTH}.html")
        assert opened.page.locator("mjx-container").count() > 50
        assert opened.page.evaluate("[...document.fonts].some(font => font.status === 'loaded')")
        assert opened.remote + opened.troubles == []


class Head(HTMLParser):
    """A page's title, and what its head says about it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.about: dict[str, str] = {}
        self.title, self.within = "", ""
        self.feed((HTML / page).read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.within = tag
        if tag == "meta" and "content" in given:
            self.about[given.get("name") or given.get("property") or ""] = given["content"]

    def handle_data(self, data: str) -> None:
        self.title += data * (self.within == "title" and not self.title)


@pytest.mark.parametrize("page", ["index.html", FIRST])
def test_a_link_to_the_book_can_be_previewed(page: str) -> None:
    head = Head(page)
    assert head.title.strip() == "Variational auto-encoders, derived and run" == head.about["og:title"]
    assert 100 < len(head.about["description"]) < 200
    assert head.about["og:description"] == head.about["description"]
    picture = urlsplit(head.about["og:image"])
    # In full where the address is known, as of pages that GitHub publishes.
    folder = HTML / page if not picture.netloc else HTML / "index.html"
    assert (folder.parent / "_static" / Path(picture.path).name).is_file() or (folder.parent / picture.path).is_file()
    assert Head(EIGHTH).title.strip() == "8. Training on real digits — Variational auto-encoders, derived and run"


# Sphinx itself makes the others, which hold no text.
@pytest.mark.parametrize("page", [page for page in PAGES if "/" in page and page != FIRST])
def test_a_page_s_link_is_previewed_with_its_title_and_a_chapter_s_with_its_question(page: str) -> None:
    head = Head(page)
    about, title = head.about["description"], head.about["og:title"]
    assert head.title.strip() == f"{title} — {head.about['og:site_name']}"
    assert head.about["og:description"] == about
    assert re.fullmatch(r"[^\\<>{}]{30,500}", about)
    if page in CHAPTERS:
        assert about.endswith("?")
        assert html.unescape(f">{about}<") in html.unescape((HTML / FIRST).read_text(encoding="utf-8"))


def test_the_first_page_opens_on_a_model_to_play_with_and_leads_on(browser: Browser, address: str) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        opened = visit(context, address)
        opened.open(address + FIRST)
        plane = opened.page.locator(".front .vaebook-explorer.live .plane")
        expect(plane).to_be_in_viewport()
        decoded = opened.page.locator(".front canvas.f")
        before = decoded.evaluate("canvas => canvas.toDataURL()")
        plane.click(position={"x": 250, "y": 60})
        opened.page.wait_for_function("b => document.querySelector('.front canvas.f').toDataURL() !== b", arg=before)
        assert opened.remote + opened.troubles == []
        for words, page in [("Begin at chapter 1", "notebooks/01_kl.html"), ("Explore", "pages/explorer.html")]:
            button = opened.page.locator(".front-buttons a", has_text=words)
            expect(button).to_be_in_viewport()
            assert button.evaluate("link => link.href").startswith(address + page)


def test_an_equation_and_the_function_that_computes_it_lead_to_each_other(browser: Browser, address: str) -> None:
    with browser.new_context() as context:
        opened = visit(context, address)
        opened.open(f"{address}notebooks/01_kl.html")
        opened.page.locator("[id='equation-eq-kl-gaussian'] + p.in-code a").click()
        described = opened.page.locator("dl.function:has([id='vaebook.divergences.kl_diagonal'])")
        expect(described.locator("dt.sig")).to_be_in_viewport(timeout=20_000)
        opened.page.wait_for_load_state("networkidle")  # a page that is left gives up what it has not got yet
        described.locator("a[href$='#equation-eq-kl-gaussian']").click()
        # Formulas above it are set first, and move it.
        expect(opened.page.locator("[id='equation-eq-kl-gaussian']")).to_be_in_viewport(timeout=20_000)
        assert opened.remote + opened.troubles == []


def looks(page: Page, selector: str, *properties: str) -> list[list[str]]:
    """The computed values of properties of all elements that fit, each list once."""
    script = "([s, names]) => [...document.querySelectorAll(s)].map(e => names.map(name => getComputedStyle(e)[name]))"
    return [list(found) for found in {tuple(values) for values in page.evaluate(script, [selector, properties])}]


def test_headings_weigh_by_rank_folded_code_is_a_quiet_line_and_a_quoted_number_is_plain(
    browser: Browser, address: str
) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.goto(f"{address}notebooks/04_elbo.html")
        heads = [looks(page, f".bd-article h{rank}", "fontWeight", "fontSize") for rank in (1, 2, 3)]
        assert [len(found) for found in heads] == [1, 1, 1]
        weights, sizes = zip(*((float(weight), float(size[:-2])) for ((weight, size),) in heads), strict=True)
        assert list(weights) == sorted(weights, reverse=True)
        assert list(sizes) == sorted(set(sizes), reverse=True)
        page.locator(".admonition.dropdown").first.wait_for()
        names = ("fontWeight", "fontSize", "backgroundColor")
        (solution,) = looks(page, ".admonition.toggle-hidden > .admonition-title", *names)
        (code,) = looks(page, "details.hide:not([open]) > summary > .collapsed", *names)
        assert (solution[0], code[0]) == ("600", "400")
        assert float(code[1][:-2]) < float(solution[1][:-2])
        assert solution[2] == code[2] == "rgba(0, 0, 0, 0)"
        assert looks(page, "details.hide", "boxShadow", "backgroundColor") == [["none", "rgba(0, 0, 0, 0)"]]
        assert looks(page, "p > .pasted-text", "fontWeight") == [["400"]]


def test_the_index_leads_to_the_first_page(browser: Browser, address: str) -> None:
    with browser.new_context() as context:
        opened = visit(context, address)
        opened.page.goto(f"{address}index.html")
        opened.page.wait_for_url(address + FIRST)
        assert opened.remote + opened.troubles == []


def test_the_first_page_is_soon_interactive(browser: Browser, address: str) -> None:
    times = []
    for _ in range(5):
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(address + FIRST, wait_until="domcontentloaded")
            times.append(page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive"))
    assert statistics.median(times) < 1000  # milliseconds


@pytest.mark.parametrize(
    ("written", "environment", "address", "launch"),
    [
        ("", {}, None, None),
        ("", {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b"}, "https://github.com/a/b",
         {"colab_url": "https://colab"}),
        ("https://github.com/c/d", {}, "https://github.com/c/d", {"colab_url": "https://colab"}),
        ("https://github.com/c/d", {"GITHUB_SERVER_URL": "x", "GITHUB_REPOSITORY": "y"}, "https://github.com/c/d",
         {"colab_url": "https://colab"}),
    ],
)  # fmt: skip
def test_the_buttons_lead_to_the_repository_that_is_written_down_or_publishes_the_pages(
    monkeypatch: pytest.MonkeyPatch, written: str, environment: dict[str, str], address: str | None, launch: object
) -> None:
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options: dict[str, Any] = {"repository_url": written, "launch_buttons": {"colab_url": "https://colab", "hub": ""}}
    config = SimpleNamespace(html_theme_options=options)
    app = SimpleNamespace(registry=SimpleNamespace(css_files=[]), events=SimpleNamespace(listeners={}))
    adapt_theme(app, config)  # type: ignore[arg-type]
    assert (options.get("repository_url") or None) == address
    assert options.get("launch_buttons") == launch
    assert options.get("use_source_button", False) is bool(address)


def test_colab_and_binder_open_the_plain_notebooks() -> None:
    binder, colab = "https://binder/v2/gh/main/main", "https://colab/github/main/main"
    urls = [f"{binder}/main?urlpath=lab/tree/notebooks/01_kl.ipynb", f"{colab}/blob/main/notebooks/01_kl.ipynb"]
    buttons = {"label": "launch-buttons", "buttons": [{"url": url} for url in urls]}
    downloads = {"label": "download-buttons", "buttons": [{"text": "source"}, {"text": ".pdf"}]}
    context = {"header_buttons": [downloads, buttons], "pathto": lambda path, _: path}
    offer_downloads(None, "notebooks/01_kl", "", context, None)  # type: ignore[arg-type]
    assert [button["url"] for button in buttons["buttons"]] == [
        f"{binder}/plain?urlpath=lab/tree/notebooks/01_kl.ipynb",
        f"{colab}/blob/plain/notebooks/01_kl.ipynb",
    ]
    assert [button["text"] for button in downloads["buttons"]] == [".ipynb", ".md", ".pdf"]
