"""A source and its stored notebook: what one of them has and the other lacks is never dropped unasked."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from small_book import write_project

from vaebook_runner import book, cli, pairs
from vaebook_runner.chapters import read_notebook

ROOT = Path(__file__).parents[1]
NAME = "01_first"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chapter and its stored notebook, as a refresh leaves them."""
    monkeypatch.chdir(write_project(tmp_path / "book"))
    for name in (NAME, "02_second"):
        source = Path.cwd() / "notebooks" / f"{name}.md"
        nbformat.write(read_notebook(source), "executed.ipynb")
        book.store(source, Path("executed.ipynb"))
    return source.with_name(f"{NAME}.md")


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change a notebook by a tool that has no jupytext."""
    notebook = json.loads(path.read_text())
    change(notebook)
    path.write_text(json.dumps(notebook))  # on one line, and without a line's end


def vs_code(notebook: Any) -> None:
    notebook["metadata"]["kernelspec"]["display_name"] = ".venv"
    notebook["metadata"]["language_info"].update(file_extension=".py", version="3.11.7", pygments_lexer="ipython3")
    for k, cell in enumerate(notebook["cells"]):
        cell["id"], cell["metadata"]["vscode"] = f"c{k}", {"languageId": "python"}
    notebook["cells"].append(
        {"cell_type": "code", "id": "x", "metadata": {}, "source": [], "outputs": [], "execution_count": None}
    )


def colab(notebook: Any) -> None:
    notebook["nbformat_minor"] = 0
    notebook["metadata"].update(colab={"provenance": [], "toc_visible": True}, accelerator="GPU")
    notebook["metadata"]["kernelspec"] = {"display_name": "Python 3", "name": "python3"}
    for k, cell in enumerate(notebook["cells"]):
        del cell["id"]
        cell["metadata"].update(
            id=f"aB{k}", executionInfo={"elapsed": 3, "user": {}}, outputId="f1", colab={"height": 3}
        )
        cell["source"] = ["\n", *(line.replace("\n", "\r\n") for line in cell["source"]), "\n"]


def jupyterlab(notebook: Any) -> None:
    for cell in notebook["cells"]:
        cell["metadata"].update(
            editable=True,
            scrolled=True,
            slideshow={"slide_type": ""},
            execution={"x": 1},
            tags=cell["metadata"].get("tags", []),
        )


def adds(notebook: Any) -> None:
    cell = {
        "cell_type": "code",
        "metadata": {},
        "source": ["print('mine')\n", "2"],
        "outputs": [],
        "execution_count": None,
    }
    notebook["cells"].append(cell | ({"id": "mine"} if notebook["nbformat_minor"] else {}))


def changes(notebook: Any) -> None:
    notebook["cells"][2]["source"] = ["print('seed is', seed)"]


def tags(notebook: Any) -> None:
    notebook["cells"][2]["metadata"]["tags"] = ["hide-input"]


def attaches(notebook: Any) -> None:
    notebook["cells"][0]["attachments"] = {"a.png": {"image/png": "iVBORw0KGgo="}}


EDITS = {
    adds: "only 01_first.ipynb has: print('mine')",
    changes: "only 01_first.md has, as it was stored: print('seed', seed)",
    tags: "only 01_first.ipynb has: print('seed', seed)",
    attaches: "only 01_first.ipynb has: # First",
    lambda notebook: notebook["cells"].pop(2): "only 01_first.md has, as it was stored: print('seed', seed)",
    lambda notebook: notebook["cells"].reverse(): "only 01_first.md has, as it was stored: # First",
}


@pytest.mark.parametrize("tool", [vs_code, colab, jupyterlab])
def test_what_a_tool_notes_for_itself_is_no_edit(
    source: Path, tool: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    edit(source.with_suffix(".ipynb"), tool)
    assert pairs.compare(source) == ([], False)
    assert cli.main(["refresh", "--check"]) == 0
    assert capsys.readouterr() == ("", "")
    # Nor is it when the source moved on.
    source.write_text(source.read_text().replace("# First", "# The first"))
    assert not pairs.compare(source)[1]


@pytest.mark.parametrize("tool", [vs_code, colab, jupyterlab])
@pytest.mark.parametrize(("change", "said"), EDITS.items())
def test_an_edit_of_the_notebook_stops_a_refresh(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, change: Any, said: str, tool: Any
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("something was executed")

    monkeypatch.setattr(book, "execute_changed", never)
    stored = source.with_suffix(".ipynb")
    edit(stored, tool)
    edit(stored, change)
    before = source.read_bytes(), stored.read_bytes()
    assert cli.main(["refresh"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "to keep one side: vaebook refresh 01_first --take md, or --take ipynb" in error
    assert "02_second" not in error
    assert cli.main(["refresh", "--check"]) == 1
    assert said in capsys.readouterr().err
    assert (source.read_bytes(), stored.read_bytes()) == before


def test_an_edit_of_both_is_told_of_both(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(source.with_suffix(".ipynb"), adds)
    source.write_text(source.read_text().replace("# First", "# The first"))
    assert cli.main(["refresh", NAME]) == 1
    error = capsys.readouterr().err
    for line in (
        "md has: # The first",
        "ipynb has, as it was stored: # First",
        "ipynb has: print('m",
    ):
        assert line in error


def test_an_edit_of_the_source_alone_is_out_of_step_and_refreshed(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source.write_text(source.read_text().replace("# First", "# The first"))
    assert cli.main(["refresh", "--check"]) == 1
    told = capsys.readouterr().err.splitlines()[1:]
    assert told == [
        "  only 01_first.md has: # The first",
        "  only 01_first.ipynb has, as it was stored: # First",
    ]
    monkeypatch.setattr(
        book, "execute_changed", lambda jobs, _: [executed(Path(job.source), job.notebook) for job in jobs]
    )
    assert cli.main(["refresh"]) == 0
    assert cli.main(["refresh", "--check"]) == 0


def executed(source: Path, notebook: Path) -> None:
    notebook.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(read_notebook(source), notebook)


def test_a_notebook_that_is_missing_is_out_of_step_and_loses_nothing(source: Path) -> None:
    source.with_suffix(".ipynb").unlink()
    assert pairs.compare(source) == (["  there is no 01_first.ipynb"], False)
    pairs.check_unedited([source])


@pytest.mark.parametrize("side", ["md", "ipynb"])
def test_either_side_can_be_taken(source: Path, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    stored, text = source.with_suffix(".ipynb"), source.read_text()
    for change in (colab, adds, tags):
        edit(stored, change)
    monkeypatch.setattr(
        book, "execute_changed", lambda jobs, _: [executed(Path(job.source), job.notebook) for job in jobs]
    )
    assert cli.main(["refresh", NAME, "--take", side]) == 0
    assert pairs.compare(source) == ([], False)
    mine = "\n```{code-cell} ipython3\nprint('mine')\n2\n```\n"
    hidden = text.replace("ipython3\nprint", "ipython3\n:tags: [hide-input]\n\nprint", 1)
    cells = source.read_text().partition("# First")[2]  # without the header, which names jupytext's version
    assert cells == ((text if side == "md" else hidden + mine).partition("# First")[2])
    assert ("print('mine')" in stored.read_text()) == (side == "ipynb")


def test_what_markdown_cannot_hold_stays_in_the_notebook(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = source.with_suffix(".ipynb")
    edit(stored, attaches)
    before = stored.read_bytes()
    assert cli.main(["refresh", NAME, "--take", "ipynb"]) == 1
    assert "only 01_first.ipynb has: # First" in capsys.readouterr().err
    assert stored.read_bytes() == before


@pytest.mark.parametrize("path", ["notebooks/01_first.md", "notebooks/01_first.ipynb"])
def test_a_run_says_which_of_two_that_differ_it_runs(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(cli, "execute", lambda *_, **__: "")
    assert cli.main(["run", path]) == 0
    assert capsys.readouterr().err == ""
    edit(source.with_suffix(".ipynb"), adds)
    assert cli.main(["run", path]) == 0
    said = f"{Path(path).name} is run, and its pair differs: see vaebook refresh --check"
    assert capsys.readouterr().err == f"{said}\n"
    # A pair that cannot be read is not what was asked for.
    source.with_suffix(".ipynb").write_text("{")
    if path.endswith(".md"):
        assert cli.main(["run", path]) == 0


def test_the_hook_writes_nothing() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert "vaebook refresh --check" in hooks
    assert "--sync" not in hooks


# --- JupyterLab, as make lab sets it up ---


class Lab:
    def __init__(self, root: Path) -> None:
        from jupytext import build_async_jupytext_contents_manager_class
        from traitlets.config import PyFileConfigLoader

        config = PyFileConfigLoader("jupyter_lab_config.py", str(ROOT / "jupyterlab")).load_config()
        manager = build_async_jupytext_contents_manager_class(config.ServerApp.contents_manager_class)
        self.manager = manager(root_dir=str(root))

    def open(self, name: str) -> Any:
        return asyncio.run(self.manager.get(f"notebooks/{name}", type="notebook"))

    def save(self, model: Any) -> None:
        asyncio.run(self.manager.save({key: model[key] for key in ("type", "content")}, model["path"]))


@pytest.fixture
def lab(source: Path) -> Lab:
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    return Lab(source.parents[1])


@pytest.mark.parametrize("newer", [".md", ".ipynb"])
@pytest.mark.parametrize("suffix", [".md", ".ipynb"])
def test_jupyterlab_refuses_to_open_a_pair_that_it_would_cut(source: Path, lab: Lab, suffix: str, newer: str) -> None:
    from tornado.web import HTTPError

    edit(source.with_suffix(".ipynb"), adds)
    source.write_text(source.read_text().replace("# First", "# The first"))
    os.utime(source.with_suffix(newer), (2e9, 2e9))
    with pytest.raises(HTTPError, match=r"only 01_first.ipynb has: print\('mine'\)"):
        lab.open(f"{NAME}{suffix}")


@pytest.mark.parametrize("suffix", [".md", ".ipynb"])
def test_jupyterlab_saves_both_and_a_later_edit_of_the_source_is_no_conflict(
    source: Path, lab: Lab, suffix: str
) -> None:
    model = lab.open(f"{NAME}{suffix}")
    model["content"]["cells"][0]["source"] = "# In the lab"
    lab.save(model)
    assert "# In the lab" in source.read_text()
    assert "# In the lab" in source.with_suffix(".ipynb").read_text()
    assert "vaebook" not in source.read_text()
    source.write_text(source.read_text().replace("# In the lab", "# In an editor"))
    assert not pairs.compare(source)[1]
    assert lab.open(f"{NAME}{suffix}")["content"]["cells"][0]["source"] == "# In an editor"


def test_jupyterlab_saves_over_no_edit_that_came_meanwhile(source: Path, lab: Lab) -> None:
    from tornado.web import HTTPError

    model = lab.open(f"{NAME}.md")
    edit(source.with_suffix(".ipynb"), adds)
    before = source.read_bytes(), source.with_suffix(".ipynb").read_bytes()
    with pytest.raises(HTTPError, match=r"only 01_first.ipynb has: print\('mine'\)"):
        lab.save(model)
    assert (source.read_bytes(), source.with_suffix(".ipynb").read_bytes()) == before


def test_what_jupyterlab_keeps_in_the_notebook_alone_is_an_edit(source: Path, lab: Lab) -> None:
    model = lab.open(f"{NAME}.ipynb")
    attaches(model["content"])
    lab.save(model)
    assert pairs.compare(source)[1]
