"""JupyterLab as ``make lab`` starts it, used by a reader: open a chapter, edit it, run it, save it.

A server of its own, which remembers nothing outside the test's folder, and the system's Chromium.
"""

from __future__ import annotations

import ast
import difflib
import io
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
from PIL import Image
from traitlets.config.loader import PyFileConfigLoader

from vaebook.explorer import explorer
from vaebook.models import mlp_vae
from vaebook_runner import pairs

pytest.importorskip("playwright", reason="playwright is not installed")
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

PROJECT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REFERENCES = PROJECT / "notebooks" / "references.json"
# The last has references over two lines, and long formulas.
CHAPTERS = ("01_kl", "05_gaussian_vae", "08_training", "13_joint_view")
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
    """A folder with chapters, the first by another name, its outputs newer than its source, and an explorer."""
    root = tmp_path_factory.mktemp("book")
    folder = root / "notebooks"
    folder.mkdir()
    for suffix in (".md", ".ipynb"):
        for name in CHAPTERS:
            shutil.copy(PROJECT / "notebooks" / f"{name}{suffix}", folder)
        shutil.copy(folder / f"01_kl{suffix}", folder / f"{CHAPTER}{suffix}")
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
    choose(page, "View", "Expand All Code")  # a folded cell shows no number
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


def recorded(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The texts that a notebook's outputs bind to names."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    bound = [output for output in outputs if "application/papermill.record/text/plain" in output.get("data", {})]
    return {
        output.metadata["scrapbook"]["name"]: ast.literal_eval(output.data["application/papermill.record/text/plain"])
        for output in bound
    }


@in_browser
@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_shows_what_its_page_shows(lab: Lab, page: Page, name: str) -> None:
    references = json.loads(REFERENCES.read_text(encoding="utf-8"))
    text, stored = pair(lab.root / "notebooks" / f"{name}.md")
    notebook = open_file(page, f"{name}.md")

    def own(kind: str) -> list[str]:
        return [number for where, number in references[kind].values() if where == f"notebooks/{name}"]

    proses = sum(cell.cell_type == "markdown" for cell in stored.cells)
    expect(notebook.locator(".jp-MarkdownCell .myst")).to_have_count(proses)  # all are rendered
    expect(notebook.locator(".myst .katex .tag")).to_have_text([f"({number})" for number in own("equations")])
    captions = [re.compile(f"Fig. {re.escape(number)} [A-Z]") for number in own("figures")]
    expect(notebook.locator(".vaebook-caption")).to_have_text(captions)

    prose = "\n".join(notebook.locator(".myst").all_text_contents())
    values = recorded(stored)
    for quoted in re.findall(r"\{glue:text\}`([^`]+)`", text):
        assert values[quoted] in prose
        assert quoted not in prose
    for cited in re.findall(r"\{cite:t\}`([^`,]+)`", text):
        assert "{} ({})".format(*references["citations"][cited]) in prose
    names = {*references["equations"], *references["figures"], *references["citations"]}
    names.update(name for name in references["titles"] if "-" in name)
    assert [name for name in names if name in prose] == []
    assert notebook.locator(".myst [class*=red]:not(code *), .myst .katex-error").count() == 0

    # No number stands on its formula.
    for formula in notebook.locator(".katex-html:has(> .tag)").all():
        edges = "(all, edge) => all.map(one => one.getBoundingClientRect()[edge])"
        (number,) = formula.locator("> .tag").evaluate_all(edges, "left")
        assert max(formula.locator("> .base").evaluate_all(edges, "right")) <= number

    # Folded as on the page, and pictures as large as there.
    tags = [cell.metadata.get("tags", []) for cell in stored.cells]
    folded = sum("hide-input" in tag or "hide-cell" in tag for tag in tags)
    expect(notebook.locator(".jp-Cell-inputWrapper .jp-Placeholder")).to_have_count(folded)
    assert folded
    assert notebook.locator("details").count() == text.count("{admonition} Solution")
    assert notebook.locator("details[open]").count() == 0
    for image in notebook.locator(".jp-RenderedImage img").all():
        assert image.evaluate("image => image.width / image.naturalWidth") == pytest.approx(0.5, abs=0.01)
    ticks = notebook.locator(".jp-OutputArea-output", has_text="✓").all_text_contents()
    assert ticks
    assert [tick for tick in ticks if re.search("(eq|def)-", tick)] == []


@in_browser
def test_a_reference_leads_to_its_place_in_another_chapter_or_in_this(lab: Lab, page: Page) -> None:
    references = json.loads(REFERENCES.read_text(encoding="utf-8"))
    other = [label for label, (where, _) in references["equations"].items() if where == "notebooks/05_gaussian_vae"]
    source = (lab.root / "notebooks" / "08_training.md").read_text(encoding="utf-8")
    label = next(label for label in other if f"{{eq}}`{label}`" in source)
    number = references["equations"][label][1]
    notebook = open_file(page, "08_training.md")
    notebook.locator(".myst a", has_text=f"({number})").first.click()
    current = page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current")
    expect(current).to_contain_text("05_gaussian_vae.md")
    expect(page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)").locator(f"[id='{label}']")).to_be_in_viewport()

    notebook = open_file(page, "01_kl.md")
    expect(notebook.locator("[id='eq-kl-gaussian']")).not_to_be_in_viewport()
    notebook.locator(".jp-OutputArea-output a", has_text="(1.4)").first.click()  # a tick's
    expect(notebook.locator("[id='eq-kl-gaussian']")).to_be_in_viewport()
    expect(current).to_contain_text("01_kl.md")


@in_browser
def test_opening_a_chapter_changes_no_file_nor_does_an_edit_that_is_undone(lab: Lab, page: Page) -> None:
    for name in CHAPTERS:
        notebook = open_file(page, f"{name}.md")
        expect(notebook.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_visible()
        notebook.locator(".jp-Cell-inputWrapper .jp-Placeholder", has_text="at_least(").click()
        expect(notebook.locator(".jp-CodeCell .cm-content", has_text="at_least(").first).to_be_visible()
    unsaved = page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-dirty")
    assert unsaved.count() == 0

    open_file(page, "01_kl.md").locator(".jp-CodeCell .cm-content", has_text="n_samples: int").first.click()
    page.keyboard.type("#")
    expect(unsaved).to_have_count(1)
    page.keyboard.press("Backspace")
    path = lab.root / "notebooks" / "01_kl.md"
    before = path.stat().st_mtime_ns
    save(page, path, "n_samples: int")
    assert path.stat().st_mtime_ns > before
    for name in CHAPTERS:
        for suffix in (".md", ".ipynb"):
            file = lab.root / "notebooks" / f"{name}{suffix}"
            assert file.read_bytes() == (PROJECT / "notebooks" / file.name).read_bytes(), file.name


def test_without_the_book_s_numbers_the_configuration_still_holds(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "_config.yml", tmp_path)
    shutil.copytree(PROJECT / "jupyterlab", tmp_path / "jupyterlab")
    config = PyFileConfigLoader("jupyter_lab_config.py", path=str(tmp_path / "jupyterlab")).load_config()
    assert config.ServerApp.tornado_settings["page_config_data"]["references"] == {}


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
    expect(notebook.locator(".myst").first).to_contain_text("100,000 random draws")
    notebook.locator("details summary").first.click()
    run_all(page, notebook, codes)
    after, saved = save(page, path, "n_samples = 20_000")

    # The prose quotes this run; and what the reader has unfolded is still open.
    assert recorded(saved)["kl-samples"] == "20,000"
    expect(notebook.locator(".myst").first).to_contain_text("20,000 random draws")
    assert notebook.locator("details[open]").count() == 1
    assert pairs.compare(path) == ([], False)
    assert saved.metadata["language_info"] == stored.metadata["language_info"]

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
def test_a_figure_is_as_dark_as_the_theme(page: Page) -> None:
    figure = open_file(page, "05_gaussian_vae.md").locator(".jp-RenderedImage img").first
    for theme, dark in (("JupyterLab Dark", True), ("JupyterLab Light", False)):
        page.locator("#jp-MainMenu").get_by_text("Settings", exact=True).click()
        page.locator(".lm-Menu").get_by_text("Theme", exact=True).hover()
        page.locator(".lm-Menu").get_by_text(theme, exact=True).click()
        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", str(not dark).lower())
        with Image.open(io.BytesIO(figure.screenshot())) as shot:
            grey = shot.convert("L")
            paper, (darkest, brightest) = grey.getpixel((3, 3)), grey.getextrema()
        assert (paper < 40) == dark
        assert (paper > 240) != dark
        assert brightest - darkest > 150  # its lines


@in_browser
def test_nothing_asks_for_the_network_or_for_news(lab: Lab, page: Page) -> None:
    assert lab.remote == []
    assert page.locator(".Toastify__toast").count() == 0
