# make demo | make test: everything on a fresh machine, in .venv; nothing is installed elsewhere.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# Where pip finds PyTorch, for example https://download.pytorch.org/whl/cpu for a build without CUDA.
TORCH_INDEX ?=
TORCH := $(shell grep '^torch==' envs/lock.txt)
# On a machine without a GPU, jobs need not wait for one another: each takes its share of the cores.
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
JOBS := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo --resources gpu=$(CORES))

# Files of tests side by side, each by one worker and one thread, in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help environment demo test test-workflow test-all lint benchmark docs pictures

help:
	@echo "make demo         run the study mini of params.yaml, say where its figures are, compare with what is expected"
	@echo "make test         format, lint, layers, types, unit tests, the smallest study through Snakemake and DVC"
	@echo "make test-workflow  what else runs Snakemake, DVC, fetching and Slurm, and long tests"
	@echo "make test-all     every test, the slow ones too"
	@echo "make benchmark    the engine against one full forward per number, at LLaVA-1.5's token counts"
	@echo "make docs         build the documentation in site/, with the tutorial executed"
	@echo "make pictures     draw README's pictures anew"
	@echo "make environment  only set up $(VENV)"

environment: $(VENV)/complete

# PyTorch first: whatever comes after it is satisfied with the build that is there.
$(VENV)/complete: envs/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "crossflow needs Python 3.11 or newer: install one and run 'make PYTHON=python3.11 ...'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: install it (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install --quiet --constraint envs/lock.txt --editable '.[workflow,test]'
	@touch $@

demo: environment
	$(SNAKEMAKE) $(JOBS) --config study=mini
	@echo
	@echo "The figures are in results/mini/figures, the tables in results/mini/summary, what they say about the"
	@echo "study's claims in results/mini/claims.md; results/mini/explorer.html is a page to look around in."
	@echo "Comparing the tables with resources/expected/mini ..."
	@$(SNAKEMAKE) --quiet all --config study=mini -- compare

lint: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	PYTHONPATH=workflow $(BIN)/lint-imports --no-cache
	$(BIN)/mypy

test: lint
	$(PYTEST) -m "not slow and not workflow and not long"

# The documentation is built by a test.
test-workflow: $(VENV)/complete-docs
	$(PYTEST) -m "(workflow or long) and not slow"

test-all: lint $(VENV)/complete-docs
	$(PYTEST)

benchmark: environment
	PYTHONPATH=workflow $(BIN)/python -m crossflow bench --no-tower --layers 16 --width 1024 --dtype float32 --device cpu

# What only the documentation needs is not in the environment that everything else uses.
$(VENV)/complete-docs: $(VENV)/complete
	$(BIN)/pip install --quiet --constraint envs/lock.txt --editable '.[docs]'
	@touch $@

docs: $(VENV)/complete-docs
	PYTHONPATH=workflow $(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean
	@PYTHONPATH=workflow $(BIN)/python docs/offline.py site
	@echo "Open site/index.html; it needs no network."

pictures: environment
	PYTHONPATH=workflow $(BIN)/python docs/pictures.py
