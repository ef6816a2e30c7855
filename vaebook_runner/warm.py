"""What the process that forks kernels loads: nothing of vaebook, which each kernel reads as it is at that moment."""

import gc
import importlib
import os
import subprocess
import sys
import warnings
from contextlib import suppress

# What the chapters import. Not matplotlib_inline: it sets itself up at import, and needs the kernel's IPython for that.
LIBRARIES = """ipykernel.kernelapp ipykernel.debugger IPython.core.completerlib IPython.extensions.storemagic
    tornado.platform.asyncio numpy torch torchvision matplotlib.pyplot sympy sklearn.datasets safetensors.torch tqdm"""
# A kernel's path: this process may have that of the one that started it, to which a test or a script added folders.
COMMAND = [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"]
FRESH_PATH = subprocess.check_output(COMMAND, text=True).splitlines()
LOADED_WITH = os.environ.get("OMP_NUM_THREADS")


def set_threads(wanted: str | None) -> None:
    """Set the threads that OMP_NUM_THREADS asks for, where the libraries were loaded with others."""
    if wanted and wanted.isdecimal() and wanted != LOADED_WITH:
        from threadpoolctl import threadpool_limits  # comes with scikit-learn

        with warnings.catch_warnings(action="ignore"):
            threadpool_limits(int(wanted))
        sys.modules["torch"].set_num_threads(int(wanted))


os.environ.pop("MPLBACKEND", None)  # each kernel chooses its own
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or the debugger prints four lines of advice
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pyarrow's thread would not survive a fork
for _name in LIBRARIES.split():
    with suppress(ImportError):  # the kernel that needs it will say that it is missing
        importlib.import_module(_name)
gc.collect()
gc.freeze()  # or the collector of each kernel would touch, and so copy, every page
