# Sets up and runs everything in .venv; nothing is installed elsewhere. `make` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# Where pip finds PyTorch, for example https://download.pytorch.org/whl/cpu for a build without CUDA.
TORCH_INDEX ?=
TORCH := $(shell grep '^torch==' envs/lock.txt)
# On a machine without a GPU, jobs run side by side, each on its share of the cores.
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
JOBS := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo --resources gpu=$(CORES))

# `make test COVERAGE=yes` prints how much of each module the tests run; they then take up to twice as long.
COVERAGE ?=
# Files of tests side by side, each by one worker and one thread, in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder \
	$(if $(COVERAGE),--cov --cov-report=term:skip-covered)
# The checks of `make lint`, longest first; .pre-commit-config.yaml runs the same.
CHECKS := check-types check-workflow check-code check-layers

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help environment demo test test-workflow test-all lint $(CHECKS) benchmark docs pictures \
	results-archive results-pull metadata release research-object container \
	container-apptainer dist/container/source.tar

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-19s %s\n", $$1, $$2}' Makefile

demo: environment ## run the study mini of params.yaml (minutes) and compare its tables with the expected ones
	@$(SNAKEMAKE) $(JOBS) --config study=mini -- all compare
	@echo
	@echo "The tables agree with those in resources/expected/mini. The results are in results/mini:"
	@echo "  explorer.html  curves, claims and single questions on one page, in a browser"
	@echo "  claims.md      a verdict on each claim of the study, with its numbers"
	@echo "  figures/       the figures as PNG and PDF; overview-mini-llava-w3 shows the whole study"
	@echo "  summary/       the tables behind them"

environment: $(VENV)/complete ## set up .venv with the versions of envs/lock.txt

# PyTorch first, so that later packages accept the installed build.
$(VENV)/complete: envs/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "crossflow needs Python 3.11 or newer: install one and run 'make PYTHON=python3.11 ...'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: install it (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install --quiet --constraint envs/lock.txt --editable '.[workflow,test]'
	@touch $@

lint: environment ## format, lint, workflow, layers, types
	@$(MAKE) --no-print-directory --jobs $(CORES) --keep-going $(CHECKS)

check-types:
	$(BIN)/mypy

check-workflow:
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

check-code:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

check-layers:
	PYTHONPATH=workflow $(BIN)/lint-imports --no-cache

test: lint ## lint, unit tests, and the smallest study through Snakemake and DVC
	$(PYTEST) -m "not slow and not workflow and not long"

# The documentation is built by a test.
test-workflow: $(VENV)/complete-docs ## all other tests with Snakemake, DVC, downloads and Slurm, and long tests
	$(PYTEST) -m "(workflow or long) and not slow"

test-all: lint $(VENV)/complete-docs ## lint and every test, with coverage
	$(PYTEST) --cov --cov-report=term:skip-covered

benchmark: environment ## time the engine against full forwards, at LLaVA-1.5's token counts
	PYTHONPATH=workflow $(BIN)/python -m crossflow bench --no-tower --layers 16 --width 1024 --dtype float32 --device cpu

# What only the documentation needs is not in the environment that everything else uses.
$(VENV)/complete-docs: envs/lock-docs.txt $(VENV)/complete
	$(BIN)/pip install --quiet --constraint envs/lock.txt --constraint envs/lock-docs.txt --editable '.[docs]'
	@touch $@

docs: $(VENV)/complete-docs ## build the documentation in site/, with the tutorial executed
	PYTHONPATH=workflow $(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean
	@PYTHONPATH=workflow $(BIN)/python docs/offline.py site
	@echo "Open site/index.html; it needs no network."

pictures: environment ## draw the images of README.md
	PYTHONPATH=workflow $(BIN)/python docs/pictures.py

STUDY := $(shell sed -n 's/^study: *//p' params.yaml)
ARCHIVE ?= dist/crossflow-results-$(STUDY).zip
RESULTS_ARCHIVE := $(BIN)/python workflow/scripts/results_archive.py

# After a finished study, `dvc repro` starts no job and only stores the results.
results-archive: environment ## pack the finished study into one file, from which a clone pulls it
	$(BIN)/dvc repro
	$(RESULTS_ARCHIVE) pack $(ARCHIVE)
	@echo "$(ARCHIVE) belongs to the present dvc.lock: commit dvc.lock if it has changed."

results-pull: environment ## pull the finished study from the file ARCHIVE=... that results-archive wrote
	$(RESULTS_ARCHIVE) pull $(ARCHIVE)

# What a release needs has an environment of its own.
RELEASE := .venv-release
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' workflow/crossflow/__init__.py)
$(RELEASE)/complete: envs/lock-release.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install --quiet --requirement envs/lock-release.txt
	@touch $@

metadata: $(RELEASE)/complete ## write .zenodo.json and codemeta.json from CITATION.cff
	$(RELEASE)/bin/cffconvert --validate
	$(RELEASE)/bin/cffconvert --format zenodo --outfile .zenodo.json
	$(RELEASE)/bin/cffconvert --format codemeta --outfile codemeta.json

research-object: environment $(RELEASE)/complete ## write the finished study as a Workflow Run RO-Crate, and validate it
	$(BIN)/python workflow/scripts/research_object.py results/$(STUDY) dist/crossflow-$(STUDY).crate.zip
	@echo "dist/crossflow-$(STUDY).crate.zip is written. Its validation reads RO-Crate's vocabulary from the network, once."
	$(RELEASE)/bin/rocrate-validator --no-interactive validate --no-paging --profile-identifier workflow-run-crate \
		dist/crossflow-$(STUDY).crate.zip

release: $(RELEASE)/complete ## build wheel and sdist of the commit in dist/, check them, run the wheel in an empty environment
	@test -z "$$(git status --porcelain --untracked-files=no)" || \
		{ echo "A release is built from a commit: commit your changes first." >&2; exit 1; }
	rm -rf dist/release
	mkdir -p dist/release/source dist/release/elsewhere
	git archive HEAD | tar -x -C dist/release/source
	$(RELEASE)/bin/python -m build --no-isolation --outdir dist dist/release/source
	$(RELEASE)/bin/twine check --strict dist/crossflow-$(VERSION)*
	$(PYTHON) -m venv dist/release/environment
	dist/release/environment/bin/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	dist/release/environment/bin/pip install --quiet --constraint envs/lock.txt dist/crossflow-$(VERSION)-py3-none-any.whl
	cd dist/release/elsewhere && ../environment/bin/crossflow trace --device cpu \
		--image $(CURDIR)/resources/example/pictures/scene6.jpg \
		--question "Is the box to the left or to the right of the star?" --box 5,3,16,15 --box 54,56,28,27
	rm -rf dist/release
	@echo "dist/ holds crossflow $(VERSION). Next: git tag v$(VERSION), and twine upload."

dist/container/source.tar:
	mkdir -p $(@D)
	git archive --output $@ HEAD

container: dist/container/source.tar ## build the Docker image crossflow from the commit
	docker build --tag crossflow:$(VERSION) --build-arg TORCH_INDEX=$(TORCH_INDEX) --file envs/Dockerfile $(<D)

container-apptainer: dist/container/source.tar ## build the Apptainer image dist/crossflow.sif from the commit
	cd $(<D) && apptainer build --build-arg TORCH_INDEX=$(TORCH_INDEX) ../crossflow.sif $(CURDIR)/envs/crossflow.def
