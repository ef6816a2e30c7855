"""The book as one PDF: the sheet it is printed from, and what a browser makes of it.

The tests read the rendered pages in ``_build/html`` (``make book``), which they never build.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
pytest.importorskip("pypdf", reason="pypdf is not installed")

from bs4 import BeautifulSoup
from pypdf import PdfReader

from vaebook.cli import main
from vaebook.runner import pdf
from vaebook.runner.files import UsageError

HTML = Path(__file__).parents[1] / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, pdf.BROWSERS)), None)
PRINTED = ("notation", "04_elbo", "explorer", "genindex")  # wide tables, formulas, a picture, the index

rendered = pytest.mark.skipif(
    not (HTML / "genindex.html").is_file(), reason="no rendered book in _build/html: make book"
)


def without_browsers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the one browser that can be found be one that does not start."""
    broken = folder / "chromium"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(pdf.shutil, "which", lambda name: str(broken))


def test_no_browser_is_said_before_anything_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_browsers(tmp_path, monkeypatch)
    monkeypatch.setattr("vaebook.cli.build", lambda *given: pytest.fail("chapters were executed"))
    assert main(["build", "--pdf"]) == 2
    assert "needs a Chromium or Chrome" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "find_spec", lambda name: None if name == "pypdf" else True)
    with pytest.raises(UsageError, match=r"needs pypdf: pip install 'vaebook\[book\]'"):
        pdf.check_browser()


# --- the sheet ---


@pytest.fixture(scope="module")
def sheet() -> BeautifulSoup:
    return BeautifulSoup(pdf.compose(HTML), "html.parser")


@rendered
def test_every_link_of_the_sheet_leads_to_one_place_on_it(sheet: BeautifulSoup) -> None:
    places = Counter(tag["id"] for tag in sheet.find_all(id=True))
    assert [name for name, times in places.items() if times > 1] == []
    links = {link["href"] for link in sheet.find_all("a", href=True)}
    inside = {link[1:] for link in links if link.startswith("#")}
    assert inside <= set(places)
    assert len(inside) > 500
    assert all(link.startswith("http") for link in links if not link.startswith("#"))


@rendered
def test_the_sheet_has_every_page_and_picture_of_the_book(sheet: BeautifulSoup) -> None:
    pages = {page.relative_to(HTML).as_posix() for page in HTML.rglob("*.html")} - {
        "index.html",
        "search.html",
    }
    pages = {page for page in pages if not page.startswith("_static")}
    assert {article["id"] for article in sheet.find_all("article")} == pages
    shown = [image["src"] for image in sheet.find_all("img") if not image["src"].startswith("data:")]
    assert shown
    assert all((HTML.parent / source).is_file() for source in shown)
    assert len(sheet.select(".vaebook-explorer > img")) >= 1


@rendered
def test_solutions_are_printed_and_code_that_only_draws_is_not(sheet: BeautifulSoup) -> None:
    assert sheet.select("details, summary, button, script[src*=book]") == []
    assert len(sheet.select("div.admonition.dropdown")) > 20
    assert sheet.select(".tag_hide-cell pre")
    assert sheet.select(".tag_hide-input .cell_input pre") == []


# --- on paper ---


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PdfReader]:
    """A few pages of the book, with the links between them."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    html = tmp_path_factory.mktemp("pdf") / "html"
    shutil.copytree(HTML, html, ignore=shutil.ignore_patterns("_sources"))
    index = html / "genindex.html"
    entry = re.compile(r'<li class="toctree-l1[^"]*"><a[^>]*>[^<]*</a></li>')
    short = entry.sub(
        lambda found: found[0] if re.search("|".join(PRINTED) + '|href="#"', found[0]) else "",
        index.read_text(encoding="utf-8"),
    )
    index.write_text(short, encoding="utf-8")
    with PdfReader(pdf.write_pdf(html / "intro.html")) as reader:
        yield reader


@pytest.fixture(scope="module")
def pages(printed: PdfReader) -> list[str]:
    return [" ".join(page.extract_text().split()) for page in printed.pages]


@rendered
def test_the_printed_pages(pages: list[str]) -> None:
    assert 20 < len(pages) < 60
    whole = " ".join(pages)
    assert any("4. The evidence lower bound" in page and "The previous chapter" in page for page in pages)
    assert "Solution" in whole
    assert re.findall(r"\\[a-zA-Z]{2,}|\$\$|\?\?|\{glue|\{eq\}|Click to|Copy to", whole) == []


@rendered
def test_the_outline_and_the_links_lead_to_pages(printed: PdfReader) -> None:
    titles = [entry.title for entry in printed.outline if not isinstance(entry, list)]
    assert titles[0] == "Contents"
    assert {"Notation", "4. The evidence lower bound", "The explorer", "Index"} <= set(titles)
    known = set(printed.named_destinations)
    links = [note.get_object().get("/Dest") for page in printed.pages for note in page.get("/Annots", [])]
    inside = {str(link) for link in links if link is not None}
    assert len(inside) > 30
    assert inside <= known


@rendered
def test_contents_and_index_give_the_numbers_of_the_pages(pages: list[str]) -> None:
    chapter = next(k for k, page in enumerate(pages, 1) if "ended at an integral that we cannot do" in page)
    assert f"4. The evidence lower bound {chapter} " in pages[1]
    numbers = re.search(r"Gauss-Hermite quadrature, (\d+)", unescape(pages[-1] + pages[-2]))
    assert numbers
    assert "Hermite" in pages[int(numbers[1]) - 1]
