"""JupyterLab as ``make lab`` starts it, used by a reader: open a chapter, edit it, run it, save it.

A server of its own, which remembers nothing outside the test's folder, and the system's Chromium.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jupytext
import nbformat
import psutil
import pytest
import torch

from vaebook.explorer import explorer
from vaebook.models import mlp_vae

pytest.importorskip("playwright", reason="playwright is not installed")
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

PROJECT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHAPTER = "02_again"
PATIENCE = 90  # seconds
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
EXPLORER = """\
import torch
from vaebook.explorer import explorer
from vaebook.models import mlp_vae
_ = torch.manual_seed(0)
explorer(mlp_vae(64, 2), torch.rand(30, 64), torch.arange(30) % 10, (8, 8))"""

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


# --- a server, a browser ---


@dataclass
class Lab:
    """A running JupyterLab, and what its pages asked of other machines or complained of."""

    root: Path
    address: str
    token: str
    remote: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def page(self, browser: Browser) -> Page:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(1000 * PATIENCE)

        local = (self.address, self.address.replace("http", "ws"), "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(local) or self.remote.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error.stack}"))
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        return page

    def complained(self, of: str) -> list[str]:
        return [complaint for complaint in self.complaints if re.search(of, complaint)]


def until(wanted: Callable[[], object], what: str) -> None:
    """Wait for something outside the browser."""
    deadline = time.monotonic() + PATIENCE
    while not wanted():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.05)


def write_explorer(path: Path) -> None:
    """A notebook whose stored output is an explorer, and which nobody has executed here."""
    model = mlp_vae(64, 2)
    data, metadata = explorer(model, torch.rand(30, 64), torch.arange(30) % 10, (8, 8))._repr_mimebundle_()
    cell = nbformat.v4.new_code_cell(EXPLORER, execution_count=1)
    cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1, metadata=metadata)]
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    pair = {"kernelspec": python, "jupytext": {"formats": "ipynb,md:myst"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=pair)
    nbformat.write(notebook, path)
    jupytext.write(notebook, path.with_suffix(".md"), fmt="md:myst")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first chapter, the same by another name, its outputs newer than its source, and an explorer."""
    root = tmp_path_factory.mktemp("book")
    folder = root / "notebooks"
    folder.mkdir()
    for suffix in (".md", ".ipynb"):
        for name in ("01_kl", CHAPTER):
            shutil.copy(PROJECT / "notebooks" / f"01_kl{suffix}", folder / f"{name}{suffix}")
    os.utime(folder / f"{CHAPTER}.md", (1e9, 1e9))
    write_explorer(folder / "explorer.ipynb")
    return root


@pytest.fixture(scope="module")
def lab(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    own = tmp_path_factory.mktemp("jupyter")
    named = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    folders = {name: str(own / name) for name in named}
    command = [
        *(sys.executable, "-m", "jupyterlab", f"--config={PROJECT / 'jupyterlab' / 'jupyter_lab_config.py'}"),
        *(f"--ServerApp.root_dir={root}", f"--LabApp.workspaces_dir={own / 'workspaces'}"),
        *("--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--no-browser", "--allow-root"),
    ]
    log = own / "log"
    with log.open("wb") as file:
        process = psutil.Popen(
            command, env={**os.environ, **folders, "OMP_NUM_THREADS": "1"}, cwd=root,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        info = Path(folders["JUPYTER_RUNTIME_DIR"], f"jpserver-{process.pid}.json")
        until(lambda: info.is_file() or process.poll() is not None, "JupyterLab to start")
        assert process.poll() is None, log.read_text(encoding="utf-8")
        until(lambda: info.read_bytes().endswith(b"}"), "JupyterLab's address")
        server = json.loads(info.read_text(encoding="utf-8"))
        yield Lab(root, server["url"], server["token"])
    finally:
        everybody = [process, *process.children(recursive=True)] if process.is_running() else []
        if everybody:
            process.terminate()  # shuts its kernels down
        _, left = psutil.wait_procs(everybody, timeout=20)
        for one in left:
            one.kill()
        psutil.wait_procs(left, timeout=20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=1000 * PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", OFFLINE])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser) -> Page:
    """The first start."""
    page = lab.page(browser)
    page.goto(f"{lab.address}lab/tree/notebooks?token={lab.token}")
    return page


# --- what a reader does ---


def open_file(page: Page, name: str) -> Locator:
    """Double-click a file; returns the notebook that it opened."""
    page.locator(".jp-DirListing-item", has=page.get_by_text(name, exact=True)).dblclick()
    expect(page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current")).to_contain_text(name)
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")


def choose(page: Page, menu: str, entry: str) -> None:
    page.locator("#jp-MainMenu").get_by_text(menu, exact=True).click()
    page.locator(".lm-Menu").get_by_text(entry, exact=True).click()


def run_all(page: Page, notebook: Locator, cells: int) -> None:
    """Clear all outputs, whose numbers could not be told from new ones, run all cells, and wait for the last."""
    choose(page, "Edit", "Clear Outputs of All Cells")
    expect(notebook.locator(".jp-CodeCell .jp-OutputArea-output")).to_have_count(0)
    choose(page, "Run", "Run All Cells")
    prompts = notebook.locator(".jp-CodeCell .jp-InputPrompt")
    expect(prompts).to_have_text([re.compile(r"\[\d+\]")] * cells)


def pair(path: Path) -> tuple[str, nbformat.NotebookNode]:
    return path.read_text(encoding="utf-8"), nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def sources(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def save(page: Page, path: Path, wanted: str) -> tuple[str, nbformat.NotebookNode]:
    """Save, and wait until both files hold what is wanted; returns them, in step."""
    page.keyboard.press("Control+s")
    both = (path, path.with_suffix(".ipynb"))
    until(lambda: all(wanted in file.read_text(encoding="utf-8") for file in both), f"{wanted!r} on disk")
    # Only now does JupyterLab know that it has saved: a change on disk before would be a conflict.
    expect(page.locator("#jp-main-dock-panel .jp-mod-current.jp-mod-dirty")).to_have_count(0)
    text, notebook = pair(path)
    assert sources(jupytext.reads(text, fmt="md:myst")) == sources(notebook)
    return text, notebook


@in_browser
def test_the_first_start_shows_the_first_chapter_with_its_contents(lab: Lab, page: Page) -> None:
    text, notebook = pair(lab.root / "notebooks" / "01_kl.md")
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    assert len(headings) > 5
    expect(page.locator(".jp-TableOfContents:visible .jp-tocItem-heading")).to_have_text(headings)
    expect(page.locator(".jp-NotebookPanel .jp-RenderedImage img").first).to_be_visible()
    # The book's own macros, which JupyterLab has to be told of.
    assert "\\KL" in text
    expect(page.locator(".jp-NotebookPanel .katex").first).to_be_visible()
    assert lab.complained(of=r"control sequence|labextensions/vaebook") == []


@in_browser
def test_a_chapter_is_run_edited_and_saved_from_its_markdown(lab: Lab, page: Page) -> None:
    path = lab.root / "notebooks" / f"{CHAPTER}.md"
    before, stored = pair(path)
    codes = sum(cell.cell_type == "code" for cell in stored.cells)
    notebook = open_file(page, path.name)
    expect(notebook.locator(".jp-RenderedImage img").first).to_be_visible()

    notebook.locator(".jp-CodeCell .cm-content", has_text="n_samples: int").first.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("\nn_samples = 20_000")
    run_all(page, notebook, codes)
    after, saved = save(page, path, "n_samples = 20_000")

    changes = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    assert [change for change in changes if change[0] in "+-"] == ["+ n_samples = 20_000"]
    ran = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, codes + 1))
    assert not [output for cell in ran for output in cell.outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for cell in ran for output in cell.outputs)


@in_browser
def test_an_explorer_is_a_picture_until_it_is_run_and_saving_a_notebook_writes_its_source(lab: Lab, page: Page) -> None:
    notebook = open_file(page, "explorer.ipynb")
    # Scripts of a notebook that came from elsewhere do not run.
    expect(notebook.locator(".jp-OutputArea-output img")).to_be_visible()
    assert notebook.locator("canvas").count() == 0

    notebook.locator(".jp-CodeCell .cm-content").click()
    page.keyboard.press("Control+Home")
    page.keyboard.type("# tried by hand\n")
    run_all(page, notebook, cells=1)
    save(page, lab.root / "notebooks" / "explorer.md", "# tried by hand")

    plane = notebook.locator(".vaebook-explorer .plane")
    expect(plane).to_be_visible()
    z, decoded = notebook.locator("th .z"), notebook.locator("canvas.f")
    before, picture = z.inner_text(), decoded.evaluate("canvas => canvas.toDataURL()")
    plane.focus()
    page.keyboard.press("ArrowRight")
    expect(z).not_to_have_text(before)
    assert decoded.evaluate("canvas => canvas.toDataURL()") != picture
    # The keys are the explorer's: the notebook has not moved to another cell, nor deleted this one.
    expect(plane).to_be_focused()
    before = z.inner_text()
    plane.click(position={"x": 40, "y": 40})
    expect(z).not_to_have_text(before)


@in_browser
def test_nothing_asks_for_the_network_or_for_news(lab: Lab, page: Page) -> None:
    assert lab.remote == []
    assert page.locator(".Toastify__toast").count() == 0
