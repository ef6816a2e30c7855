"""Print the rendered book as one PDF: ``print.js`` lays all pages on one sheet, which Chromium or Chrome prints."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click

from vaebook import __version__
from vaebook_runner.files import UsageError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Pages that are opened as files may not read one another, so they get an address, which no network ever sees.
BOOK = "http://book.invalid/"


def check_browser() -> None:
    """See that a book can be printed, before minutes are spent on executing it; UsageError says what is missing."""
    with browser():
        pass


@contextmanager
def browser() -> Iterator[Any]:
    """The system's Chromium or Chrome, or the one that ``playwright install chromium`` puts there."""
    try:
        import pypdf  # noqa: F401
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError as error:
        raise UsageError(f"the PDF needs {error.name}: install vaebook with its extra 'book'") from None
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    ways: list[dict[str, Any]] = [{"executable_path": path}] if path else [{"channel": "chrome"}, {}]
    with sync_playwright() as playwright:
        for way in ways:
            with suppress(Error):
                chromium = playwright.chromium.launch(**way)
                break
        else:
            raise UsageError("the PDF needs Chromium or Chrome: install one, or run 'playwright install chromium'")
        with chromium:
            yield chromium


def write_pdf(first_page: Path) -> Path:
    """Print the book that the given page belongs to; return the path of the PDF, beside the book's folder."""
    click.echo("printing the pages (a minute or two)", err=True)
    target = first_page.parent.with_name("vaebook.pdf")
    unfinished = target.with_suffix(".partial.pdf")
    with browser() as chromium:
        page = compose(chromium, first_page.parent)
        page.evaluate("fit")
        for _ in range(2):  # first to learn on which page everything lies, then with these numbers
            page.pdf(path=unfinished, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
            page.evaluate("number", page_numbers(unfinished))
    return unfinished.replace(target)


def compose(chromium: Any, folder: Path) -> Any:
    """All pages of the rendered book in ``folder`` on one sheet, open in the browser."""
    page = chromium.new_page(color_scheme="light")  # paper is white, whatever the reader's system shows
    page.set_default_timeout(0)
    page.emulate_media(media="print")
    page.route(f"{BOOK}**", partial(_serve, folder))
    page.goto(BOOK)
    page.add_script_tag(path=Path(__file__).with_name("print.js"))
    page.set_content(page.evaluate("compose", __version__))
    return page


def _serve(folder: Path, route: Any) -> None:
    """Answer with a file of the book, or else with an empty page, such as the one the sheet is written on."""
    path = folder / unquote(urlsplit(route.request.url).path)[1:]
    route.fulfill(**{"path": path} if path.is_file() else {"body": "<!DOCTYPE html>", "content_type": "text/html"})


def page_numbers(path: Path) -> dict[str, int]:
    """The number of the page on which each place lies that is linked to."""
    from pypdf import PdfReader

    reader = PdfReader(path)
    places = reader.named_destinations.items()
    return {name.removeprefix("/"): (reader.get_destination_page_number(at) or 0) + 1 for name, at in places}
