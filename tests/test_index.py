"""The index of the book: ``pages/index.yml``, and what the Sphinx extension makes of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TERMS = yaml.safe_load((ROOT / "pages" / "index.yml").read_text(encoding="utf-8"))
PAGE = """
.. _place:

A title
=======

.. math:: a = b
   :label: eq-one

Further reading
---------------
"""
CONFIGURATION = f"""
import sys
sys.path.append({str(ROOT / "pages" / "_ext")!r})
extensions = ["sphinx.ext.mathjax", "sphinxcontrib.bibtex", "book_pages"]
bibtex_bibfiles = []
html_theme = "sphinx_book_theme"
"""


def build(folder: Path, index: str) -> subprocess.CompletedProcess[str]:
    (folder / "conf.py").write_text(CONFIGURATION)
    (folder / "index.rst").write_text(PAGE)
    (folder / "pages").mkdir()
    (folder / "pages" / "index.yml").write_text(index)
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(folder), str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_term_leads_to_its_labels_and_headings(tmp_path: Path) -> None:
    done = build(tmp_path, "entropy: [eq-one, place, index#further-reading]\nsurprise: see entropy\n")
    assert done.returncode == 0, done.stderr
    shown = (tmp_path / "out" / "genindex.html").read_text(encoding="utf-8")
    # The first place is the main one, which the search begins with.
    for anchor, words in [
        ("equation-eq-one", "<strong>entropy</strong>"), ("further-reading", "[1]"), ("place", "[2]"),
    ]:  # fmt: skip
        assert f'<a href="index.html#{anchor}">{words}</a>' in shown
    assert "see entropy" in shown


@pytest.mark.parametrize("place", ["eq-two", "index#nowhere"])
def test_a_place_that_is_not_there_stops_the_build(tmp_path: Path, place: str) -> None:
    done = build(tmp_path, f"entropy: {place}\n")
    assert done.returncode != 0
    assert f"'entropy' leads to '{place}', which is no label or heading" in done.stderr


def test_see_names_a_term_that_is_there() -> None:
    other = [place.removeprefix("see ") for place in TERMS.values() if str(place).startswith("see ")]
    assert other
    assert set(other) <= {term for term, place in TERMS.items() if not str(place).startswith("see ")}


@pytest.mark.parametrize("term", ["Kullback–Leibler divergence", "ELBO", "reparameterization", "posterior collapse"])
def test_what_a_reader_looks_for_is_there(term: str) -> None:
    assert term in TERMS
