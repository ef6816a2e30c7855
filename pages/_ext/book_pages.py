"""What the book's pages need beyond their theme: a Sphinx extension, named in ``_config.yml``."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from docutils import nodes  # type: ignore[import-untyped]
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
CHAPTERS = "notebooks/"
FORMATS = {"ipynb": ("code", "notebook for any Jupyter"), "md": ("file", "source")}
PLAIN_BRANCH = "plain"  # to which .github/workflows pushes the plain notebooks
WORDS_PER_MINUTE = 200  # of a text with derivations, which are read slowly and are not counted


def setup(app: Sphinx) -> dict[str, bool]:
    """Load the book's style and scripts, and connect the functions below to the events of a build."""
    app.add_css_file("book.css", priority=800)  # after the theme's
    app.add_js_file("equations.js", loading_method="defer")
    app.add_js_file("book.js", loading_method="defer")
    app.setup_extension("sphinx.ext.autodoc")  # whose event is listened to below
    app.connect("config-inited", adapt_theme)
    app.connect("doctree-read", add_reading_time)
    app.connect("doctree-read", fold_once)
    app.connect("autodoc-process-docstring", fit_docstring)
    app.connect("env-check-consistency", write_equations)
    app.connect("env-check-consistency", write_references)
    app.connect("env-updated", add_index_entries)
    app.connect("doctree-resolved", fit_text)
    app.connect("html-page-context", describe)
    app.connect("html-page-context", link_source, priority=400)  # before the theme makes its buttons
    app.connect("html-page-context", offer_downloads, priority=900)  # after it made them
    app.connect("build-finished", prune_mathjax, priority=900)  # after MathJax was copied
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def adapt_theme(app: Sphinx, config: Any) -> None:
    """Set the theme's options, and leave out Thebe, a remote script that no page uses."""
    options = config.html_theme_options
    # A search box in the header would bring hidden ☰ buttons, and the visible ones would do nothing.
    options["navbar_persistent"] = []
    published = [os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")]
    if not options.get("repository_url") and all(published):
        options["repository_url"] = "/".join(map(str, published))  # where a push publishes the pages
    launch = options.pop("launch_buttons", {})
    if options.get("repository_url"):
        options["launch_buttons"] = {name: url for name, url in launch.items() if url}
        options |= dict.fromkeys(("use_repository_button", "use_source_button", "use_issues_button"), True)
    config.html_scaled_image_link = False  # a figure is no link to itself
    app.registry.css_files[:] = [file for file in app.registry.css_files if file[0] != "sphinx-thebe.css"]
    for listener in [listener for group in app.events.listeners.values() for listener in group]:
        if listener.handler.__module__ == "sphinx_thebe":
            app.disconnect(listener.id)


def add_reading_time(app: Sphinx, doctree: nodes.document) -> None:
    """Say below a chapter's title how long its prose takes to read."""
    if app.env.docname.startswith(CHAPTERS):
        words = sum(len(paragraph.astext().split()) for paragraph in doctree.findall(nodes.paragraph))
        minutes = 5 * math.ceil(words / WORDS_PER_MINUTE / 5)
        note = nodes.paragraph("", f"Reading time: about {minutes} minutes.", classes=["reading-time"])
        next(doctree.findall(nodes.title)).parent.insert(1, note)


def fold_once(app: Sphinx, doctree: nodes.document) -> None:
    """Put folded code that stands together behind one line, and let the line say what it opens."""
    cells = [node for node in doctree.findall(nodes.container) if node.get("nb_element") == "cell_code"]
    for cell in cells:
        mode = cell.get("hide_mode")
        if mode == "output" or (mode == "all" and len(cell) > 1):
            cell["prompt_show"] = cell["prompt_hide"] = "output" if mode == "output" else "code and output"
        after = cell.next_node(descend=False, siblings=True)
        if mode == "input" and len(cell) == 1 and after in cells and after.get("hide_mode") == mode:
            after[0][:0] = cell[0].children
            cell.parent.remove(cell)


def fit_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Leave out what Python writes about each field of a named tuple, and wide gaps before comments."""
    kept = [line for line in lines if not line.startswith("Alias for field number")]
    lines[:] = [re.sub(r"^( *>>> .*?\S) {3,}# ", r"\1  # ", line) for line in kept]


def write_equations(app: Sphinx, env: Any) -> None:
    """Write labelled equations to a script for ``book.js``: a page opened as a file can read no other."""
    found = [node for page in env.found_docs for node in env.get_doctree(page).findall(nodes.math_block)]
    tex = {nodes.make_id(f"equation-{node['label']}"): node.astext() for node in found if node.get("label")}
    script = Path(app.outdir, "_static", "equations.js")
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f"const EQUATIONS = {json.dumps(tex, indent=0)};\n", encoding="utf-8")


def add_index_entries(app: Sphinx, env: Any) -> None:
    """Enter the terms of ``pages/index.yml`` into the index; warn of a place that is not there."""
    source = Path(app.confdir, "pages", "index.yml")
    terms = yaml.safe_load(source.read_text(encoding="utf-8")) if source.is_file() else {}
    terms = {term: [places] if isinstance(places, str) else places for term, places in terms.items()}
    # A place is a label, or a heading as "chapter#its-id".
    found = {label: place[:2] for label, place in env.get_domain("std").data["anonlabels"].items()}
    for label, (page, _) in env.get_domain("math").data["objects"].items():
        found[label] = (page, f"equation-{label}")
    for page, contents in env.tocs.items():
        for link in contents.findall(nodes.reference):
            found[page.removeprefix(CHAPTERS) + link["anchorname"]] = (page, link["anchorname"][1:])
    entries = env.get_domain("index").data["entries"]
    for term, places in terms.items():
        for k, place in enumerate(places):
            kind, words = ("see", f"{term}; {place[4:]}") if place.startswith("see ") else ("single", term)
            aim = terms[place[4:]][0] if kind == "see" else place
            page, anchor = found.get(aim, (env.config.root_doc, ""))
            entries.setdefault(page, []).append((kind, words, anchor, "" if k else "main", None))
            if aim not in found:
                logger.warning("index.yml: %r leads to %r, which is no label or heading", term, place)


def fit_text(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Show figures as large as matplotlib drew them, and keep formulas on a line with what stands close to them."""
    for image in doctree.findall(nodes.image):
        # A figure has 192 dots to the inch (``book.mplstyle``), and a page has 96 pixels.
        image.setdefault("scale", 100 if "width" in image else 50)
    for formula in list(doctree.findall(nodes.math)):
        keep_together(formula)


def keep_together(formula: nodes.math) -> None:
    """Keep a formula on a line with its full stop, the bracket before it, and the number that it equals."""
    line, place, pieces = formula.parent, formula.parent.index(formula), [formula]
    before, after = line[place - 1] if place else None, (*line[place + 1 : place + 2], None)[0]
    if after == " " and formula.astext().endswith("="):
        pieces += line[place + 1 : place + 3]
        del line[place + 1 : place + 3]
    elif isinstance(after, nodes.Text) and (close := re.match(r"\S+", after)):
        pieces.append(nodes.Text(close[0]))
        line[place + 1] = nodes.Text(after[close.end() :])
    if isinstance(before, nodes.Text) and (opening := re.search(r"[(\[“‘]+$", before)):
        pieces.insert(0, nodes.Text(opening[0]))
        line[place - 1] = nodes.Text(before[: opening.start()])
    if len(pieces) > 1:
        line[place] = nodes.inline("", "", *pieces, classes=["unbroken"])


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give a page the description that previews of links show: a chapter's question, or its first paragraph."""
    if not doctree or page == app.config.root_doc:
        return  # The book's own description is in preview.html.
    questions = {}  # of the chapters, from the table on the first page
    for row in app.env.get_doctree(app.config.root_doc).findall(nodes.row):
        cells = list(row.findall(nodes.entry))
        for label in row.findall(addnodes.pending_xref):
            target = app.env.get_domain("std").data["labels"].get(label["reftarget"], [""])[0]
            questions[target] = cells[-1].astext()
    first = next(doctree.findall(nodes.paragraph), nodes.Text(""))  # The index has none.
    context["about"] = questions.get(page) or first.astext().replace("\n", " ")


def link_source(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Link the MyST source of a chapter, which people edit, where the theme links what Sphinx read."""
    if page.startswith(CHAPTERS):
        context["page_source_suffix"] = ".md"


def offer_downloads(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Offer a chapter as a plain notebook and as MyST (``vaebook_runner.book`` writes both), and where to run it."""
    shown = context["header_buttons"] if page.startswith(CHAPTERS) else []
    groups = {group["label"]: group["buttons"] for group in shown if "buttons" in group}
    for suffix, (icon, what) in FORMATS.items() if groups else ():
        url = context["pathto"](f"_sources/{page}.{suffix}", 1)
        link = {"url": url, "text": f".{suffix}", "icon": f"fas fa-{icon}", "tooltip": f"Download {what}"}
        groups["download-buttons"].insert(-1, groups["download-buttons"][0] | link)
    if groups:
        del groups["download-buttons"][0]
    for button in groups.get("launch-buttons", []):  # Colab and Binder know no MyST
        button["url"] = re.sub(r"/main(?=\?urlpath|/notebooks)", f"/{PLAIN_BRANCH}", button["url"])


def prune_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Keep the one MathJax bundle that pages load, and the parts that it loads when needed."""
    for bundle in Path(app.outdir, "_static", "mathjax").glob("*.js"):
        if bundle.name != Path(app.config.mathjax_path).name:
            bundle.unlink()


def write_references(app: Sphinx, env: Any) -> None:
    """Write the numbers of equations and figures, titles, and the names behind citations, for plain notebooks."""

    def number(page: str, kind: str, anchor: str) -> str:
        return ".".join(map(str, env.toc_fignumbers.get(page, {}).get(kind, {}).get(anchor, ())))

    def authors(persons: list[Any]) -> str:
        names = [" ".join(map(str, [*person.rich_prelast_names, *person.rich_last_names])) for person in persons]
        return " and ".join(names) if len(names) < 3 else f"{names[0]} et al."

    labels, entries = env.get_domain("std").data, env.get_domain("cite").bibdata.data.entries
    equations = env.get_domain("math").data["objects"].items()
    found = {
        "equations": {n: [page, number(page, "displaymath", f"equation-{n}")] for n, (page, _) in equations},
        "figures": {n: [page, number(page, "figure", anchor)] for n, (page, anchor) in labels["anonlabels"].items()},
        "titles": {n: [page, str(title)] for n, (page, _, title) in labels["labels"].items() if "/" in page},
        "citations": {
            key: [authors(entry.persons.get("author") or entry.persons["editor"]), entry.fields["year"]]
            for key, entry in entries.items()
        },
    }
    found["macros"] = (app.config.mathjax3_config or {}).get("tex", {}).get("macros", {})
    found["figures"] = {name: place for name, place in found["figures"].items() if place[1]}
    Path(app.outdir, "references.json").write_text(
        json.dumps(found, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
