"""What leads a reader here and there (``pages/_ext/book_links.py``), on a book of two pages."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_floors import FLOORS

EXTENSIONS = Path(__file__).parents[1] / "pages" / "_ext"
sys.path.insert(0, str(EXTENSIONS))

import book_links  # noqa: E402

CONFIGURATION = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["sphinx.ext.mathjax", "sphinxcontrib.bibtex", "book_pages", "book_links"]
bibtex_bibfiles = []
html_theme = "sphinx_book_theme"
"""
PAGE = """
A title
=======

.. toctree::

   pages/module

.. math:: a = b
   :label: eq-one

.. math:: a = c
   :label: eq-two
"""
MODULE = """
The module
==========

The page itself names :eq:`eq-two`.

.. py:function:: add(a, b)

   Computes :eq:`eq-one`, as :eq:`eq-one` says.

.. py:class:: Adder

   .. py:method:: add(b)

      Computes :eq:`eq-one`.
"""
INDEX = "addition: [eq-two, eq-one]\nsum: see addition\n"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("links")
    (folder / "pages").mkdir()
    for name, text in [
        ("conf.py", CONFIGURATION), ("index.rst", PAGE), ("pages/module.rst", MODULE), ("pages/index.yml", INDEX),
    ]:  # fmt: skip
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(folder), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_the_page_of_the_module_shows_each_file_below_those_that_it_imports() -> None:
    shown = re.findall(r"automodule:: vaebook\.(\w+)", (EXTENSIONS.parent / "module.md").read_text(encoding="utf-8"))
    floor = {name: k for k, names in enumerate(FLOORS) for name in names}
    assert set(shown) == set(floor)
    assert [floor[name] for name in shown] == sorted(floor.values())


def test_an_equation_names_once_each_function_whose_docstring_names_it(pages: Path) -> None:
    shown = (pages / "index.html").read_text(encoding="utf-8")
    (line,) = re.findall(r'<p class="in-code">.*?</p>', shown)
    assert shown.index('id="equation-eq-one"') < shown.index(line) < shown.index('id="equation-eq-two"')
    assert re.findall(r'href="([^"]+)"', line) == ["pages/module.html#add", "pages/module.html#Adder.add"]
    assert re.sub("<[^>]+>", "", line) == "in code: add, Adder.add"
    assert 'href="../index.html#equation-eq-one"' in (pages / "pages" / "module.html").read_text(encoding="utf-8")


def test_the_search_knows_the_terms_of_the_index_and_their_first_places(pages: Path) -> None:
    text = (pages / "searchindex.js").read_text(encoding="utf-8")
    entries = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))["indexentries"]
    first, other = [0, "equation-eq-two", True], [0, "equation-eq-one", False]
    assert entries["addition"] == [other, first]
    assert entries["sum"] == [first]


def test_the_index_holds_terms_and_no_functions(pages: Path) -> None:
    shown = (pages / "genindex.html").read_text(encoding="utf-8")
    assert "addition" in shown
    assert "Adder" not in shown


@pytest.mark.parametrize(
    ("repository", "written", "address"),
    [
        ("https://github.com/Ann/book", "", "https://ann.github.io/book/"),
        ("https://github.com/Ann/book", "https://book.example/", "https://book.example/"),
        ("https://git.example/ann/book", "", ""),
        ("", "", ""),
        (None, "", ""),
    ],
)
def test_the_pages_have_the_address_at_which_github_publishes_them(
    repository: str | None, written: str, address: str
) -> None:
    config: Any = SimpleNamespace(html_theme_options={"repository_url": repository}, html_baseurl=written)
    book_links.set_address(config, config)
    assert config.html_baseurl == address
