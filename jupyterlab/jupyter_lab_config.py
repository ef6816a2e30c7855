"""JupyterLab for this book (``make lab``); whatever it remembers stays in the project's environment."""

import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent
SPHINX = yaml.safe_load((HERE.parent / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
MACROS = SPHINX["mathjax3_config"]["tex"]["macros"]  # a text, or a text and how many arguments it takes

c = get_config()  # type: ignore[name-defined]  # noqa: F821

c.ServerApp.root_dir = str(HERE.parent)
c.ServerApp.tornado_settings = {
    "page_config_data": {
        "texMacros": {f"\\{name}": tex if isinstance(tex, str) else tex[0] for name, tex in MACROS.items()}
    }
}
c.LabApp.default_url = "/lab/tree/notebooks"
c.LabApp.app_settings_dir = str(HERE)  # overrides.json
c.LabApp.extra_labextensions_path = [str(HERE / "labextensions")]
c.LabApp.workspaces_dir = str(Path(sys.prefix, "share", "jupyter", "lab", "workspaces"))
