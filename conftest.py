"""Settings every test shares: notebooks, unit tests and doctests alike.

This file stands at the project's root because pytest applies a conftest to what lies below it, and
nbval must compare the outputs of `notebooks/` by the rules of `tests/outputs.py` wherever it is
started from. (`pytest_plugins` is also allowed nowhere else.)
"""

import importlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import hypothesis
import matplotlib
import pytest
from jupyter_client.provisioning import KernelProvisionerFactory

from vaebook_runner.execute import DEFAULTS, cores, settle

settle()
if sys.platform == "linux":
    # Here, before a test can change the environment: it notes what the process that forks kernels starts with.
    from vaebook_runner import forked

# `pytest notebooks --nbval` collects nothing in tests/, so nothing else would put it on the path; and what renders the
# book's pages is on Sphinx's path alone.
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("tests", "pages/_ext")]
pytest_plugins = ["pytester", "outputs"]


# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples at every run, and no limit on their time: a busy machine is no failure.
hypothesis.settings.register_profile("book", derandomize=True, deadline=None)
hypothesis.settings.load_profile("book")
# For tests/mutants.py, which asks whether a test fails, not for the simplest example on which it does.
phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
hypothesis.settings.register_profile("quick", derandomize=True, deadline=None, phases=phases, max_examples=20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, since many tests wait: for a browser, for a process that starts, for a timeout."""
    return cores() + 1


def pytest_configure(config: pytest.Config) -> None:
    # nbval starts each kernel in the notebook's folder, where a relative path means another place.
    if data := os.environ.get("VAEBOOK_DATA"):
        os.environ["VAEBOOK_DATA"] = str(Path(data).expanduser().absolute())
    # Figures: no window here, and in the kernels the inline backend, which a kernel chooses only
    # where the environment names no other.
    matplotlib.use("agg")
    os.environ.pop("MPLBACKEND", None)
    # Tests that run side by side, and the kernels that they start, share the cores.
    if workers := config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // workers)))
    if config.getoption("nbval", False):
        # Builds the font cache of a fresh machine here: in a kernel it may take over five seconds,
        # and matplotlib then says so on stderr, which is an output that the chapter does not have.
        importlib.import_module("matplotlib.font_manager")
        # Kernels begin as those of the command do, whatever the user's profile of IPython says.
        os.environ["IPYTHONDIR"] = folder = tempfile.mkdtemp(prefix="vaebook-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        startup = Path(folder, "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "00-defaults.py").write_text(DEFAULTS, encoding="utf-8")
        # Kernels of this process are forked, unless the user chose otherwise; those of processes that tests start,
        # such as JupyterLab, are what they are for a reader.
        if sys.platform == "linux" and "JUPYTER_DEFAULT_PROVISIONER_NAME" not in os.environ:
            KernelProvisionerFactory.instance().default_provisioner_name = forked.NAME
