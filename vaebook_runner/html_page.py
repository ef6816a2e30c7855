"""An executed notebook as one HTML file that needs nothing else: no network, no folder beside it."""

from importlib.util import find_spec
from pathlib import Path

from vaebook_runner.files import UsageError, write_atomically
from vaebook_runner.plain import names_of, plain

# JupyterLab's own look, with the script for formulas inside the page in place of remote ones.
TEMPLATE = Path(__file__).with_name("html_page.j2").read_text("utf-8")


def check_parts() -> Path:
    """MathJax's file that holds its fonts too; UsageError where it or nbconvert is not installed."""
    found = find_spec("sphinx-mathjax-offline")
    if not (found and found.origin and find_spec("nbconvert")):
        raise UsageError("a page OUT.html needs nbconvert and MathJax: install vaebook with its extra 'book'")
    return Path(found.origin).parent / "static" / "mathjax" / "tex-svg.js"


def write_html(executed: Path, page: str, root: Path | None, path: Path) -> None:
    """Write an executed notebook, that of ``page`` in the book in ``root``, as an HTML file."""
    import nbformat
    from nbconvert import HTMLExporter

    names = names_of(root)._replace(address="", link="{}")  # other chapters do not come with the file
    notebook = plain(nbformat.read(executed, as_version=4), page, names)
    titles = [title for there, title in names.titles.values() if there == page] or [Path(page).name]
    mathjax = check_parts().read_text(encoding="utf-8").replace("</script", r"<\/script")
    resources = {"metadata": {"name": titles[0]}, "mathjax": mathjax}
    write_atomically(path, HTMLExporter(raw_template=TEMPLATE).from_notebook_node(notebook, resources)[0])
