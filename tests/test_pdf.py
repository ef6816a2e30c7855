"""The book as one PDF: the sheet it is printed from, and what a browser makes of it.

The tests read the rendered pages in ``_build/html`` (``make book``), which they never build.
"""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
pytest.importorskip("pypdf", reason="pypdf is not installed")

from pypdf import PdfReader

from vaebook_runner import pdf
from vaebook_runner.cli import main
from vaebook_runner.files import UsageError

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
    monkeypatch.setattr("vaebook_runner.book.execute_changed", lambda *given: pytest.fail("chapters were executed"))
    assert main(["build", "--pdf"]) == 2
    assert "needs Chromium or Chrome" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(UsageError, match="needs pypdf: install vaebook with its extra 'book'"):
        pdf.check_browser()


# --- the sheet ---


# What a test below asks of the sheet. The browser is closed before another test prints with one of its own.
FACTS = """() => {
    const all = selector => [...document.querySelectorAll(selector)];
    return {
        ids: all("[id]").map(place => place.id),
        links: all("a[href]").map(link => link.getAttribute("href")),
        pages: all("article").map(article => article.id),
        images: all("img").filter(image => !image.src.startsWith("data:")).map(image => image.src),
        missing: all("img").filter(image => !image.naturalWidth).map(image => image.src),
        explorers: all(".vaebook-explorer > img").length,
        useless: all("details, summary, button, script[src]:not([src*=mathjax])").length,
        solutions: all("div.admonition.dropdown").length,
        hidden_cells: all(".tag_hide-cell pre").length,
        hidden_inputs: all(".tag_hide-input .cell_input pre").length,
        formulas: all("mjx-math").length,
        wide: all("mjx-math").filter(
            formula => formula.getBoundingClientRect().right > document.body.getBoundingClientRect().right + 1
        ).map(formula => formula.closest("article").id),
        spoken: all("mjx-assistive-mml").length,
    };
}"""


@pytest.fixture(scope="module")
def sheet() -> Any:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with pdf.browser() as chromium:
        page = pdf.compose(chromium, HTML)
        page.evaluate("fit")
        return page.evaluate(FACTS)


@rendered
def test_every_link_of_the_sheet_leads_to_one_place_on_it(sheet: Any) -> None:
    places = Counter(sheet["ids"])
    assert [name for name, times in places.items() if times > 1] == []
    links = set(sheet["links"])
    inside = {link[1:] for link in links if link.startswith("#")}
    assert inside <= set(places)
    assert len(inside) > 500
    outside = [link for link in links if not link.startswith("#")]
    assert all(link.startswith("http") and not link.startswith(pdf.BOOK) for link in outside)


@rendered
def test_the_sheet_has_every_page_and_picture_of_the_book(sheet: Any) -> None:
    pages = {page.relative_to(HTML).as_posix() for page in HTML.rglob("*.html")} - {
        "index.html",
        "search.html",
    }
    pages = {page for page in pages if not page.startswith("_static")}
    assert set(sheet["pages"]) == pages
    assert sheet["images"]
    assert all((HTML / urlsplit(source).path[1:]).is_file() for source in sheet["images"])
    assert sheet["missing"] == []
    assert sheet["explorers"] >= 1


@rendered
def test_solutions_are_printed_and_code_that_only_draws_is_not(sheet: Any) -> None:
    assert sheet["useless"] == 0
    assert sheet["solutions"] > 20
    assert sheet["hidden_cells"] > 0
    assert sheet["hidden_inputs"] == 0


@rendered
def test_formulas_fit_the_paper(sheet: Any) -> None:
    assert sheet["formulas"] > 1000
    assert sheet["wide"] == []
    assert sheet["spoken"] == 0  # It doubles the time.


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
    with PdfReader(pdf.write_pdf(html / "index.html")) as reader:
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
    numbers = re.search(r"Gauss–Hermite quadrature, (\d+)", unescape(pages[-1] + pages[-2]))
    assert numbers
    assert "Hermite" in pages[int(numbers[1]) - 1]
