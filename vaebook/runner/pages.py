"""What the pages need beyond their theme: a Sphinx extension, named in ``_config.yml``.

It works on pages alone: the chapters' text and outputs are as they were executed.
"""

from __future__ import annotations

import html
import math
import re
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml  # type: ignore[import-untyped]
from docutils import nodes  # type: ignore[import-untyped]
from PIL import Image
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.display import progress_message

logger = logging.getLogger(__name__)

CHAPTERS = "notebooks/"
WORDS_PER_MINUTE = 200  # of a text with derivations, which are read slowly and are not counted


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions below to the events of a build."""
    app.connect("config-inited", repository_buttons)
    app.connect("doctree-read", reading_time)
    app.connect("env-check-consistency", collect_equations)
    app.connect("env-updated", index_entries)
    # 400 comes before the theme's 501, and 900 after it.
    app.connect("html-page-context", edit_the_source, priority=400)
    app.connect("html-page-context", downloads, priority=900)
    app.connect("html-page-context", own_scripts, priority=900)
    app.connect("html-page-context", plain_bibliography, priority=900)
    app.connect("html-page-context", figures_in_inches, priority=900)
    app.connect("html-page-context", equations_at_hand, priority=900)
    app.connect("html-page-context", unbroken_formulas, priority=900)
    app.connect("build-finished", prune_mathjax, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def repository_buttons(app: Sphinx, config: Config) -> None:
    """Show links to source, issues and launchers when ``repository.url`` is set, else none."""
    options = config.html_theme_options
    if options.get("repository_url"):
        buttons = ("use_repository_button", "use_source_button", "use_issues_button")
        options.update(dict.fromkeys(buttons, True))
    else:
        options.pop("launch_buttons", None)


def reading_time(app: Sphinx, doctree: nodes.document) -> None:
    """Say below a chapter's title how long its prose takes to read."""
    if not app.env.docname.startswith(CHAPTERS):
        return
    words = sum(len(paragraph.astext().split()) for paragraph in doctree.findall(nodes.paragraph))
    minutes = 5 * math.ceil(words / WORDS_PER_MINUTE / 5)
    note = nodes.paragraph("", f"Reading time: about {minutes} minutes.", classes=["reading-time"])
    title = next(doctree.findall(nodes.title))
    title.parent.insert(title.parent.index(title) + 1, note)


def index_entries(app: Sphinx, env: BuildEnvironment) -> None:
    """Enter the terms of ``index.yml`` into the index; warn of a place that is not there."""
    source = Path(app.confdir) / "index.yml"
    terms = yaml.safe_load(source.read_text(encoding="utf-8")) if source.is_file() else {}
    entries = env.get_domain("index").data["entries"]
    for term, places in terms.items():
        if isinstance(places, str) and places.startswith("see "):
            words = f"{term}; {places.removeprefix('see ')}"
            entries.setdefault(env.config.root_doc, []).append(("see", words, "", "", None))
            continue
        for place in [places] if isinstance(places, str) else places:
            if found := _anchor(env, place):
                entries.setdefault(found[0], []).append(("single", term, found[1], "", None))
            else:
                logger.warning("index.yml: %r leads to %r, which is no label or heading", term, place)


def _anchor(env: BuildEnvironment, place: str) -> tuple[str, str] | None:
    """The document and the id that a label, or a heading ``chapter#its-id``, stands for."""
    equations = env.get_domain("math").data["objects"]
    labels = env.get_domain("std").data["anonlabels"]
    if place in equations:
        return equations[place][0], f"equation-{place}"
    if place in labels:
        return labels[place][0], labels[place][1]
    chapter, _, heading = place.partition("#")
    page = CHAPTERS + chapter
    headings = env.tocs[page].findall(nodes.reference) if page in env.tocs else ()
    return (page, heading) if f"#{heading}" in {link["anchorname"] for link in headings} else None


def edit_the_source(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Link the MyST source of a chapter, which people edit, where the theme links what it read."""
    if page.startswith(CHAPTERS):
        context["page_source_suffix"] = ".md"


def downloads(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Offer a chapter as notebook, as MyST and as Python script (``vaebook.runner.book`` writes them)."""
    if not page.startswith(CHAPTERS):
        return
    folder = context["pathto"]("_sources", 1)
    kinds = {
        ".ipynb": ("notebook with outputs", "fas fa-code"),
        ".md": ("MyST source", "fas fa-file"),
        ".py": ("Python script", "fas fa-file-code"),
    }
    links = [
        {
            "type": "link",
            "url": f"{folder}/{page}{suffix}",
            "text": suffix,
            "icon": icon,
            "tooltip": f"Download: {what}",
            "label": f"download-{suffix[1:]}-button",
        }
        for suffix, (what, icon) in kinds.items()
    ]
    for group in context["header_buttons"]:
        if group.get("label") == "download-buttons":
            printing = [button for button in group["buttons"] if button["type"] == "javascript"]
            group["buttons"] = links + printing


def own_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave out Thebe, whose code is remote and not used, and whatever was added twice."""
    kept: dict[tuple[str, str], Any] = {}
    for script in context["script_files"]:
        body = script.attributes.get("body", "")
        if "thebe" not in str(script.filename) and "thebe" not in body:
            kept.setdefault((str(script.filename), body), script)
    context["script_files"] = list(kept.values())
    settings = r'<script type="text/x-thebe-config">.*?</script>'
    context["body"] = re.sub(settings, "", context.get("body", ""), flags=re.DOTALL)


def plain_bibliography(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Take away the roles of a list of references, which contradict each other and confuse screen readers."""
    for role in (' role="list"', ' role="doc-biblioentry"'):
        context["body"] = context.get("body", "").replace(role, "")


def figures_in_inches(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Show each figure as large as matplotlib drew it, so that its letters are as large as its neighbours'.

    The size also keeps the text from moving while the pictures arrive.
    """
    # They are copied to their final place after the pages are written.
    builder = cast(StandaloneHTMLBuilder, app.builder)
    pictures = {name: Path(app.srcdir) / path for path, name in builder.images.items()}
    measure = partial(_with_size, pictures)
    context["body"] = re.sub(r'src="[^"]*_images/([^"/]+\.png)"', measure, context.get("body", ""))


def _with_size(pictures: dict[str, Path], source: re.Match[str]) -> str:
    with Image.open(pictures[source[1]]) as image:
        dots = image.info.get("dpi", (96, 96))[0]
        # A page has 96 pixels to the inch, whatever the screen.
        width, height = (round(side * 96 / dots) for side in image.size)
    return f'{source[0]} width="{width}" height="{height}"'


def collect_equations(app: Sphinx, env: Any) -> None:
    """Keep the TeX of every labelled equation of the book under the name of its place."""
    env.equations_tex = {
        nodes.make_id(f"equation-{block['label']}"): " ".join(block.astext().split())
        for page in env.found_docs
        for block in env.get_doctree(page).findall(nodes.math_block)
        if block.get("label")
    }


def equations_at_hand(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put its equation's TeX into each link to an equation, which ``book.js`` shows beside the link.

    A page that is opened as a file cannot fetch an equation from another one.
    """

    def with_tex(link: re.Match[str]) -> str:
        tex = app.env.equations_tex.get(link[1])  # type: ignore[attr-defined]
        return f'{link[0]} data-tex="{html.escape(tex)}"' if tex else link[0]

    links = r'<a class="reference internal" href="[^"]*#(equation-[^"]+)"'
    context["body"] = re.sub(links, with_tex, context.get("body", ""))


def unbroken_formulas(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Keep a formula on one line with what follows without a space, a number with the sign = before it.

    Browsers break lines beside a formula whatever stands there.
    """
    formula = r'<span class="math notranslate nohighlight">[^<]*'
    number = r'=\\\)</span> <span class="pasted-text">[^<]*</span>'
    together = rf"{formula}(?:{number}|</span>(?:[.,;:!?)]|[-’]\w*)+)"
    context["body"] = re.sub(together, r'<span class="unbroken">\g<0></span>', context.get("body", ""))


def prune_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Keep the one MathJax bundle that pages load, and the parts that it loads when needed."""
    folder = Path(app.outdir) / "_static" / "mathjax"
    used = Path(app.config.mathjax_path).name
    with progress_message("leaving out MathJax bundles that no page loads"):
        for bundle in folder.glob("*.js"):
            if bundle.name != used:
                bundle.unlink()
