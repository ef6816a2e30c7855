"""JupyterLab for this book (``make lab``); whatever it remembers stays in the project's environment."""

import json
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from click import ClickException
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado.web import HTTPError

from vaebook_runner import pairs

HERE = Path(__file__).parent
SPHINX = yaml.safe_load((HERE.parent / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
MACROS = SPHINX["mathjax3_config"]["tex"]["macros"]  # a text, or a text and how many arguments it takes
REFERENCES = HERE.parent / "notebooks" / "references.json"  # numbers, titles and names; without it, labels show


def keep(notebook: Any, path: Path) -> None:
    """Leave as stored what a browser only writes in another way: the kernel's language, 1.0 for 1."""
    stored = nbformat.read(path, as_version=4) if path.is_file() else nbformat.v4.new_notebook()
    notebook.metadata["language_info"] = stored.metadata.get("language_info", {"name": "python"})
    outputs = {cell.id: cell.outputs for cell in stored.cells if cell.cell_type == "code"}
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        if outputs.get(cell.id) == cell.outputs:
            cell.outputs = outputs[cell.id]


class Chapters(AsyncLargeFileManager):
    """Files that jupytext reads and writes in pairs: it would take the source, and drop what a notebook alone has."""

    def check(self, path: str) -> None:
        source = Path(self._get_os_path(path)).with_suffix(".md")
        try:
            pairs.check_unedited([source] if source.is_file() else [])
        except ClickException as error:
            raise HTTPError(409, error.message) from None

    async def get(self, path: str, content: bool = True, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a file, unless it is a notebook that was edited where its source did not follow."""
        if content and path.endswith(".ipynb"):
            self.check(path)
        return await super().get(path, content, *arguments, **options)

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save a file; a paired notebook not over such an edit, and with a note of the cells that its source gets."""
        notebook = nbformat.from_dict(model["content"]) if model.get("type") == "notebook" else {}
        if "md:myst" in notebook.get("metadata", {}).get("jupytext", {}).get("formats", ""):
            self.check(path)
            source = jupytext.reads(jupytext.writes(notebook, fmt="md:myst"), fmt="md:myst")
            notebook.metadata["vaebook"] = pairs.note(source)
            keep(notebook, Path(self._get_os_path(path)).with_suffix(".ipynb"))
            model["content"] = notebook
        return await super().save(model, path)


c = get_config()  # type: ignore[name-defined]  # noqa: F821

c.ServerApp.contents_manager_class = Chapters
c.ServerApp.root_dir = str(HERE.parent)
c.ServerApp.tornado_settings = {
    "page_config_data": {
        "texMacros": {f"\\{name}": tex if isinstance(tex, str) else tex[0] for name, tex in MACROS.items()},
        "references": json.loads(REFERENCES.read_text(encoding="utf-8")) if REFERENCES.is_file() else {},
    }
}
c.LabApp.default_url = "/lab/tree/notebooks"
c.LabApp.app_settings_dir = str(HERE)  # overrides.json
c.LabApp.extra_labextensions_path = [str(HERE / "labextensions")]
c.LabApp.workspaces_dir = str(Path(sys.prefix, "share", "jupyter", "lab", "workspaces"))
