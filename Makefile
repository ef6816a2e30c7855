# Every target sets up its own environment in $(VENV) from requirements.lock where it is missing,
# out of date or broken. `make help` lists the targets.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Written last: a setup that was cut short is started again.
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
# What only the benchmarks compare with lies beside the environment's packages, where nothing else finds it.
BENCH := $(VENV)/bench/.installed
# What test-portable compares: CHAPTERS="notebooks/01_kl.ipynb" is one.
CHAPTERS ?= notebooks
# Of the ranges, seeds and mistakes: names of chapters such as 01_kl, none is all; of the ranges "--sample" too.
CASES ?=
# For a machine without a GPU: the address of PyTorch's CPU builds, as its own installation page gives it.
CPU_WHEELS ?=
# Of the benchmarks, such as "epoch likelihood"; none is all.
PARTS ?=
CODE := vaebook vaebook_runner pages tests benchmarks jupyterlab conftest.py

.DEFAULT_GOAL := help
.PHONY: help book pdf test test-portable ranges replicate mutants mutants-chapters bench lab refresh lint lock clean distclean

# A moved project or a removed Python leaves stamps beside an environment that no longer runs.
ifneq ($(wildcard $(LOCKED)),)
ifneq ($(shell $(BIN)/pip --version >/dev/null 2>&1 && echo runs),runs)
.PHONY: $(LOCKED)
endif
endif

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

book: $(INSTALLED) ## execute what changed and render _build/html/index.html
	@$(BIN)/vaebook build

pdf: $(INSTALLED) ## the same as one file to print or to keep, _build/vaebook.pdf (needs Chromium or Chrome)
	@$(BIN)/vaebook build --pdf

test: $(INSTALLED) ## unit tests, doctests, and every chapter against its stored outputs
	@$(BIN)/pytest -n auto --dist loadscope --nbval --built notebooks tests vaebook

test-portable: $(INSTALLED) ## the stored outputs again, as one thread of an older processor computes them
	@OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 \
	    OPENBLAS_CORETYPE=Nehalem $(BIN)/pytest -n auto --dist loadscope --nbval $(CHAPTERS)

ranges: $(INSTALLED) ## run each chapter at the ends of its parameters' ranges (long; a sample is part of .ci/run)
	@$(BIN)/python tests/ranges_of_chapters.py _build/ranges $(CASES)

replicate: $(INSTALLED) ## run each chapter at 20 seeds that nobody looked at, and store how often each claim held (hours)
	@$(BIN)/python tests/replicate.py _build/replicates $(CASES)

mutants-chapters: $(INSTALLED) ## put small mistakes into the chapters' own code and see what notices them (long)
	@$(BIN)/python tests/chapter_mutants.py $(CASES)

mutants: $(INSTALLED) ## put small mistakes into the mathematics and see that the tests notice (part of .ci/run)
	@$(BIN)/python tests/mutants.py

bench: $(INSTALLED) $(BENCH) ## measure speed and memory beside the targets: benchmarks/results.md (a quiet machine, half an hour)
	@PYTHONPATH="$(abspath $(VENV)/bench)" $(BIN)/python -m benchmarks $(PARTS)

lab: $(INSTALLED) ## JupyterLab; a chapter's .md opens as a notebook, with the outputs of its pair
	@$(BIN)/jupyter-lab --config=jupyterlab/jupyter_lab_config.py

refresh: $(INSTALLED) ## store the outputs of every changed chapter in notebooks/*.ipynb
	@$(BIN)/vaebook refresh

lint: $(INSTALLED) ## style, types, and whether notebooks and their sources are in step
	@$(BIN)/ruff check $(CODE) notebooks
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/vaebook refresh --check

# Without bench: nobody who reads needs it, and benchmarks/requirements.lock has it.
EXTRAS := --extra book --extra cluster --extra run --extra test

lock: ## fit requirements.lock to pyproject.toml; UPGRADE=--upgrade takes the newest of all (needs uv)
	@cp requirements.lock requirements.lock.new
	@uv pip compile --quiet --universal --python-version 3.11 $(EXTRAS) --generate-hashes $(UPGRADE) \
	    --no-emit-index-url --no-annotate --no-header pyproject.toml --output-file requirements.lock.new \
	    || { rm -f requirements.lock.new; exit 1; }
	@{ sed -n '/^#/p' requirements.lock; sed '/^#/d' requirements.lock.new; } > requirements.lock.newer
	@mv requirements.lock.newer requirements.lock; rm requirements.lock.new

clean: ## remove the built book and all caches
	@rm -rf _build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis requirements.lock.new*
	@find vaebook vaebook_runner tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
	@find notebooks -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment as well
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi

$(LOCKED): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v < (3, 11) and sys.exit( \
	    "vaebook needs Python 3.11 or later, $(PYTHON) is %d.%d: try make PYTHON=python3.12" % v)'
	@if [ -n "$$(ls -A "$(VENV)" 2>/dev/null)" ] && [ ! -f "$(VENV)/pyvenv.cfg" ]; then \
	    echo "$(VENV) is not a virtual environment, and setting one up would empty it" >&2; exit 1; fi
	@echo "setting up $(VENV) from requirements.lock (a few minutes)"
	@$(PYTHON) -m venv --clear "$(VENV)"
ifeq ($(CPU_WHEELS),)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
else
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --index-url "$(CPU_WHEELS)" \
	    $$(sed -nE 's/^(torch|torchvision)==([^ ]+).*/\1==\2/p' requirements.lock)
	@awk '/^[a-z]/ { keep = !/^(torch|torchvision|triton)==|^(nvidia|cuda)-/ } keep' requirements.lock > "$(VENV)/cpu.lock"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$(VENV)/cpu.lock"
endif
	@touch $(LOCKED)

$(INSTALLED): $(LOCKED) pyproject.toml
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(INSTALLED)

$(BENCH): benchmarks/requirements.lock $(LOCKED)
	@rm -rf "$(VENV)/bench"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	    --target "$(VENV)/bench" -r benchmarks/requirements.lock
	@touch $(BENCH)
