"""What leads a reader here and there, a Sphinx extension: the search, the preview of a link, an equation's function."""

import re
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from sphinx import addnodes
from sphinx.application import Sphinx

PAGE = "pages/module"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", set_address, priority=900)  # after the repository is known
    app.connect("doctree-read", leave_the_index_alone)
    app.connect("doctree-resolved", name_the_function)
    app.connect("doctree-resolved", feed_the_search)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def set_address(app: Sphinx, config: Any) -> None:
    """Where GitHub publishes the repository's pages: a link's preview has a picture only by an address in full."""
    repository = config.html_theme_options.get("repository_url") or ""
    if found := re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", repository):
        config.html_baseurl = config.html_baseurl or f"https://{found[1].lower()}.github.io/{found[2]}/"


def leave_the_index_alone(app: Sphinx, doctree: nodes.document) -> None:
    """The book's index is one of terms: a function is found by the search, and on its page."""
    if app.env.docname == PAGE:
        app.env.get_domain("index").data["entries"][PAGE] = []


def functions(env: Any) -> dict[str, list[Any]]:
    """The signatures of what names an equation in its docstring, by the label of that equation."""
    found: dict[str, list[Any]] = {}
    page = env.get_doctree(PAGE) if PAGE in env.found_docs else nodes.section()
    for reference in page.findall(addnodes.pending_xref):
        described = reference.parent
        while not isinstance(described, (addnodes.desc, type(None))):
            described = described.parent
        if reference["reftype"] == "eq" and described:
            signatures = found.setdefault(reference["reftarget"], [])
            signatures += [described[0]] * (described[0] not in signatures)
    return found


def name_the_function(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Name below an equation what computes it, and link its docstring."""
    equations = [node for node in doctree.findall(nodes.math_block) if node.get("label")]
    computed = functions(app.env) if equations else {}
    for equation in equations:
        line = nodes.paragraph("", "in code: ", classes=["in-code"])
        for signature in computed.get(equation["label"], []):
            address = f"{app.builder.get_relative_uri(page, PAGE)}#{signature['ids'][0]}"
            name = nodes.literal("", signature["fullname"])
            line += nodes.Text(", " if len(line) > 1 else "")
            line += nodes.reference("", "", name, refuri=address, internal=True)
        if len(line) > 1:
            equation.parent.insert(equation.parent.index(equation) + 1, line)


def feed_the_search(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Let the search know the terms of ``pages/index.yml``: first comes the page where a term has its first place."""
    entries = app.env.get_domain("index").data["entries"].get(page, [])
    # A section has the first of its names itself; the others are empty places before it, of which nothing can be shown.
    own = {name: section["ids"][0] for section in doctree.findall(nodes.section) for name in section["ids"]}
    doctree += addnodes.index(entries=[(kind, words, own.get(at, at), *rest) for kind, words, at, *rest in entries])
