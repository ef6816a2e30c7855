"""The command ``vaebook``, also as ``python -m vaebook_runner``."""

import sys

try:
    from vaebook_runner.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"vaebook: no package {error.name}; install the extra 'run': pip install '.[run]' in the project's folder")

if __name__ == "__main__":
    sys.exit(main())
