"""What the process that forks kernels runs first, before it loads the libraries."""

import os
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or the debugger prints four lines of advice
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pyarrow's thread would not survive a fork
