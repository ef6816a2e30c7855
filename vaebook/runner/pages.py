"""What the pages need beyond their theme: a Sphinx extension, named in ``_config.yml``.

It works on pages alone: the chapters' text and outputs are as they were executed.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any, cast

from docutils import nodes  # type: ignore[import-untyped]
from PIL import Image
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.config import Config
from sphinx.util.display import progress_message

CHAPTERS = "notebooks/"
WORDS_PER_MINUTE = 200  # of a text with derivations, which are read slowly and are not counted


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions below to the events of a build."""
    app.connect("config-inited", repository_buttons)
    app.connect("doctree-read", reading_time)
    # 400 comes before the theme's 501, and 900 after it.
    app.connect("html-page-context", edit_the_source, priority=400)
    app.connect("html-page-context", downloads, priority=900)
    app.connect("html-page-context", own_scripts, priority=900)
    app.connect("html-page-context", plain_bibliography, priority=900)
    app.connect("html-page-context", figures_in_inches, priority=900)
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


def prune_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Keep the one MathJax bundle that pages load, and the parts that it loads when needed."""
    folder = Path(app.outdir) / "_static" / "mathjax"
    used = Path(app.config.mathjax_path).name
    with progress_message("leaving out MathJax bundles that no page loads"):
        for bundle in folder.glob("*.js"):
            if bundle.name != used:
                bundle.unlink()
