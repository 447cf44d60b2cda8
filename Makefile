# All set-up on a fresh machine: `make demo` and `make test` build their environment in .venv first.
#
#   make demo       the smallest real study, from drawn scenes to figures
#   make test       format, lint, types, tests; what continuous integration runs
#   make test-all   the slow tests too
#   make format     what `make test` would complain about in the layout of the code
#   make lock       write envs/lock.txt anew from what is installed in .venv
#   make clean      remove results and logs; .venv and data stay
#
#   PYTHON=python3.12     another python (3.11 or newer) for .venv
#   TORCH_INDEX=URL       where torch comes from, for example https://download.pytorch.org/whl/cpu for a CPU build
#   CORES=4               cores of `make demo` (default: all)

PYTHON ?= python3
TORCH_INDEX ?=
CORES ?= all

BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all lint format lock clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/snakemake --cores $(CORES) --config study=mini
	@echo
	@echo "The figures are in results/mini/figures, the tables in results/mini/summary."

test: lint
	$(BIN)/pytest -m "not slow"

test-all: lint
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow/rules

# No local version tags, so that one lock serves CPU and CUDA builds of torch.
lock: $(READY)
	{ sed '/^[^#]/d' envs/lock.txt; $(BIN)/pip freeze --all --exclude pip --exclude-editable | sed 's/+.*//'; } > envs/lock.new
	mv envs/lock.new envs/lock.txt

clean:
	rm -rf results logs

# torch comes first and without its dependencies: they are then taken, pinned, from the usual index, and not from
# TORCH_INDEX, which holds other versions of them.
$(READY): envs/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo >&2 \
	  "crossflow needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo not there): name another one, for example 'make PYTHON=python3.12 $(or $(firstword $(MAKECMDGOALS)),demo)'."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo >&2 \
	  "'$(PYTHON)' can not make virtual environments: install its venv module (on Debian and Ubuntu: apt-get install python3-venv)."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' envs/lock.txt)"
	$(BIN)/pip install --quiet --constraint envs/lock.txt --editable '.[workflow,test]'
	@touch $@
