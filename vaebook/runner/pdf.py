"""Print the rendered book as one PDF, ``_build/vaebook.pdf``.

The pages of ``_build/html`` are laid one after the other on a single sheet, so that every number and every
reference is the one that Sphinx wrote, and a Chromium or Chrome prints it twice: first to learn on which
page everything lies, then with these numbers in the table of contents and in the index. How the sheet
looks on paper, ``_static/book.css`` says.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from vaebook import __version__
from vaebook.runner.book import RunFailed, say
from vaebook.runner.files import UsageError

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# No use on paper: scripts, signs beside a heading, the index's row of letters, how long a screen takes to
# read, and the folded code that does nothing but draw a figure or check a range.
LEFT_OUT = "script, button, .headerlink, .genindex-jumpbox, .reading-time, .tag_hide-input details, summary"
# Tokens of code that have no colour of their own: most of a chapter's elements, and each costs time to print.
PLAIN = re.compile(r'<span class="(?:n|p|w)">([^<]*)</span>')
# A formula that is wider than the paper is set smaller.
FIT = """async () => {
    await MathJax.startup.promise;
    await document.fonts.ready;
    const fits = [...document.querySelectorAll("mjx-container")].map(formula => {
        const display = formula.hasAttribute("display");
        const number = display && formula.closest(".math").querySelector(".eqno");
        // A displayed formula stands in the middle, and keeps clear of its number on both sides.
        const room = formula.closest("p, div, li, td, th, dd, figcaption, h1, h2, h3").clientWidth
            - (number ? 2.2 * number.offsetWidth : 0);
        return [formula, room / formula.querySelector("mjx-math").getBoundingClientRect().width];
    });
    for (const [formula, fit] of fits)
        if (fit < 1) formula.style.fontSize = `calc(${formula.style.fontSize || "100%"} * ${0.98 * fit})`;
}"""
# Where a page's number will be: as wide as one, so that nothing moves when it comes.
UNKNOWN = "000"
NUMBER = """numbers => {
    for (const place of document.querySelectorAll("[data-page-of]"))
        place.textContent = numbers[place.dataset.pageOf] ?? "";
    // A term of the index names each page once, in their order.
    for (const entry of document.querySelectorAll(".genindextable li:has(> a)")) {
        const links = entry.querySelectorAll(":scope > a");
        const pages = new Map([...links].map(link => [+link.textContent, link]));
        const inOrder = [...pages.keys()].sort((a, b) => a - b)
            .flatMap((page, k) => [k ? ", " : " ", pages.get(page)]);
        entry.replaceChildren(entry.firstChild.data.trim(), ...inOrder);
    }
}"""


def check_browser() -> None:
    """See that a book can be printed, before minutes are spent on executing it.

    Raises:
        UsageError: if there is no browser to print with, or a package is missing.
    """
    missing = [name for name in ("bs4", "playwright", "pypdf") if find_spec(name) is None]
    if missing:
        raise UsageError(f"the PDF needs {' and '.join(missing)}: pip install 'vaebook[book]'")
    with _browser():
        pass


@contextmanager
def _browser() -> Iterator[Browser]:
    """The system's Chromium or Chrome, or the one that ``playwright install chromium`` puts there."""
    from playwright.sync_api import Error, sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    ways: list[dict[str, Any]] = [{"executable_path": path}] if path else [{"channel": "chrome"}, {}]
    with sync_playwright() as playwright:
        browser = None
        for way in ways:
            with suppress(Error):
                browser = browser or playwright.chromium.launch(**way)
        if browser is None:
            raise UsageError(
                "the PDF needs a Chromium or Chrome that starts: install one with the system's package "
                "manager, or with 'playwright install chromium'"
            )
        try:
            yield browser
        finally:
            browser.close()


def write_pdf(first_page: Path) -> Path:
    """Print the book whose rendered first page is given; return the path of the PDF."""
    folder = first_page.parent
    sheet, target = folder.with_name("print.html"), folder.with_name("vaebook.pdf")
    say("printing the pages (a minute or two)")
    try:
        sheet.write_text(compose(folder), encoding="utf-8")
        with _browser() as browser:
            _print(browser, sheet, target)
    finally:
        sheet.unlink(missing_ok=True)
    return target


def _print(browser: Browser, sheet: Path, target: Path) -> None:
    """Print the sheet, learn the pages' numbers, and print it again with them."""
    # Paper is white, whatever the reader's system shows.
    page = browser.new_page(color_scheme="light")
    page.set_default_timeout(0)
    page.emulate_media(media="print")
    page.goto(sheet.as_uri())
    page.evaluate(FIT)
    unfinished = target.with_suffix(".partial.pdf")
    for _ in range(2):
        page.pdf(path=unfinished, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
        page.evaluate(NUMBER, page_numbers(unfinished))
    unfinished.replace(target)


def page_numbers(path: Path) -> dict[str, int]:
    """The number of the page on which each place lies that is linked to."""
    from pypdf import PdfReader

    reader = PdfReader(path)
    places = reader.named_destinations.items()
    return {name.removeprefix("/"): (reader.get_destination_page_number(at) or 0) + 1 for name, at in places}


# --- the sheet ---


def compose(folder: Path) -> str:
    """All pages of the rendered book in ``folder`` as one page of HTML, which is to lie beside it."""
    # This page is always there, and at the top: its links are relative to the folder.
    outer = _soup(folder / "genindex.html")
    entries = outer.select("nav.bd-docs-nav :is(p.caption, a.internal)")
    pages = {_page("genindex.html", str(entry["href"])): entry for entry in entries if entry.name == "a"}
    articles = [_article(folder, page, set(pages)) for page in pages]
    title = html.escape(_line(entries[0]))
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light">
<head><meta charset="utf-8"><title>{title}</title>
{_styles_and_mathjax(folder)}
<style>{"".join(_running_head(article) for article in articles)}</style></head>
<body class="book tex2jax_ignore mathjax_ignore">
<header><p class="title">{title}</p><p>{html.escape(_line(outer.select_one(".component-author")))}</p>
<p>Version {__version__}</p></header>
<nav class="printed-contents"><h1>Contents</h1>{_contents(entries, articles)}</nav>
<main>{"".join(map(str, articles))}</main>
</body></html>"""


def _soup(path: Path) -> BeautifulSoup:
    from bs4 import BeautifulSoup

    return BeautifulSoup(PLAIN.sub(r"\1", path.read_text(encoding="utf-8")), "html.parser")


def _line(tag: Tag | None) -> str:
    return " ".join(tag.get_text().split()) if tag else ""


def _page(here: str, link: str) -> str:
    """The path, from the book's folder, of what a page ``here`` links to."""
    path = unquote(urlsplit(link).path)
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), path)) if path else here


def _article(folder: Path, page: str, pages: set[str]) -> Tag:
    """What a page says, with names that are its own in the whole book and links that stay within it."""
    article = _soup(folder / page).select_one("article.bd-article")
    if article is None:
        raise RunFailed(f"{folder / page} has no article")
    for useless in article.select(LEFT_OUT):
        useless.decompose()
    for named in article.find_all(id=True):
        named["id"] = f"{page}:{named['id']}"
    article["id"] = page
    for link in article.find_all("a", href=True):
        _redirect(link, page, pages)
    for image in article.find_all("img", src=True):
        if not str(image["src"]).startswith("data:"):
            image["src"] = f"{folder.name}/{_page(page, str(image['src']))}"
    for folded in article.find_all("details"):
        folded.name = "div"
    if page == "genindex.html":
        _number_index(article)
    return article


def _redirect(link: Tag, page: str, pages: set[str]) -> None:
    parts = urlsplit(str(link["href"]))
    if parts.scheme or parts.netloc:
        return
    target = _page(page, str(link["href"]))
    if target in pages:
        link["href"] = f"#{target}:{unquote(parts.fragment)}" if parts.fragment else f"#{target}"
    else:  # A file to download.
        link.unwrap()


def _number_index(article: Tag) -> None:
    """Let the number of its page be the link of each place in the index."""
    for link in article.select(".genindextable a"):
        words = _line(link)
        if not re.fullmatch(r"\[\d+\]", words):  # Further places of a term are [1], [2] and so on.
            link.insert_before(f"{words}, ")
        link.string = UNKNOWN
        link["data-page-of"] = str(link["href"]).removeprefix("#")


def _contents(entries: Sequence[Tag], articles: Sequence[Tag]) -> str:
    """The parts, chapters and sections, each with the place for its page's number."""
    lines, chapters = list[str](), iter(articles)
    for entry in entries:
        if entry.name == "p":
            lines.append(f'<p class="part">{html.escape(_line(entry))}</p>')
            continue
        article = next(chapters)
        lines.append(_content("chapter", html.escape(_line(entry)), str(article["id"])))
        if str(article["id"]).startswith("notebooks/"):  # Those of other pages are short, or tables.
            for heading in article.select("section > h2"):
                section = heading.find_parents("section")[0]
                lines.append(_content("section", heading.decode_contents(), str(section["id"])))
    return "".join(lines)


def _content(kind: str, heading: str, anchor: str) -> str:
    return (
        f'<p class="{kind}"><a href="#{html.escape(anchor)}">{heading}</a>'
        f'<span data-page-of="{html.escape(anchor)}">{UNKNOWN}</span></p>'
    )


def _styles_and_mathjax(folder: Path) -> str:
    """The head of a chapter: its style sheets, and MathJax with its settings."""
    page = next((folder / "notebooks").glob("*.html"))
    links = _soup(page).select('link[rel="stylesheet"], script')
    kept = []
    for link in links:
        place = "href" if link.name == "link" else "src"
        address = str(link.get(place, ""))
        if link.name == "link" or "mathjax" in address or "window.MathJax =" in (link.string or ""):
            if address:
                link[place] = f"{folder.name}/{_page(f'notebooks/{page.name}', address)}"
            kept.append(str(link))
    # What MathJax adds for screen readers doubles the time, and no PDF shows it.
    kept.append("<script>MathJax.options.enableAssistiveMml = false</script>")
    return "\n".join(kept)


def _running_head(article: Tag) -> str:
    """The chapter's title at the top of its pages, but for the first."""
    name = re.sub(r"\W", "-", str(article["id"]))
    title = json.dumps(_line(article.h1), ensure_ascii=False)
    return (
        f'[id="{article["id"]}"] {{ page: {name}; }}\n@page {name} {{ @top-left {{ content: {title}; }} }}\n'
    )
