# Two commands for a fresh machine: `make quickstart` sees the whole system work, `make test` sees its tests pass.
# Both create the virtual environment on first use and reuse it afterwards.

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/world.py
WORKDIR ?= runs/quickstart
PYTEST_ARGS ?=
# The seed of what `make test-faults` draws at random; it prints the seed, so that a failed run can be repeated.
FAULTS_SEED ?= $(shell date +%s)
# PyTorch only checks what we export and import; on Linux its CPU wheels save gigabytes of CUDA libraries.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# The markers of tests that have targets of their own.
NOT_OPTIONAL := not exhaustive and not faults and not compile
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Compiling the bytecode of all 23,000 installed files takes a minute, and most are never imported: Python writes it on
# first import. Without it every process of the tests would compile thousands of files again (a quarter of their time).
INSTALL := $(PIP) install --no-compile
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help quickstart test test-fast test-exhaustive test-faults test-compile lint format docs clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   teacher, samples, corpora, students, report, export: the embedded world, in $(WORKDIR)"
	@echo "make test         lint and the test suite"
	@echo "make test-fast    lint and the tests that are not marked slow: the inner loop"
	@echo "make test-exhaustive  tests of \`make test\` repeated for other architectures, sizes and data sets"
	@echo "make test-faults  many random kills, much damaged and mutated input: the long tests that \`make test\` keeps short"
	@echo "make test-compile every preset compiled for TPUs and GPUs that are absent: memory against benchmarks/results/compiled.json"
	@echo "make lint         ruff check, ruff format --check, and pyrefly for the types of the package"
	@echo "make format       rewrite the sources in the project's format"
	@echo "make docs         the documentation, into build/docs/index.html"
	@echo "make clean        remove $(VENV) and caches (runs/ stays)"
	@echo "Settings: PYTHON=python3.12 (3.11 or newer), VENV=.venv, CONFIG=..., WORKDIR=..., PYTEST_ARGS=..., FAULTS_SEED=..., TORCH_INDEX=..."

quickstart: $(VENV)/.quickstart
	$(BIN)/python -m scotd_jax.main --config=$(CONFIG) --workdir=$(WORKDIR)
	@echo "Report: $(WORKDIR)/report/index.html"

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m "$(NOT_OPTIONAL)" $(PYTEST_ARGS)

test-fast: lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and $(NOT_OPTIONAL)" $(PYTEST_ARGS)

test-exhaustive: lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m exhaustive $(PYTEST_ARGS)

test-faults: lint
	FAULTS_SEED=$(FAULTS_SEED) $(BIN)/python -m pytest -n auto --dist worksteal -m faults --junitxml=build/faults.xml $(PYTEST_ARGS)

# In two environments: libtpu and JAX's CUDA plugin need not agree with what the other tests install.
test-compile: $(VENV)-tpu/.compile $(VENV)-gpu/.compile
	JAX_PLATFORMS=cpu $(VENV)-tpu/bin/python -m pytest -m compile -rs $(PYTEST_ARGS)
	JAX_PLATFORMS=cpu $(VENV)-gpu/bin/python -m pytest -m compile -rs $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python --summary=none --min-severity=error

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Warnings are errors, and so is an internal link that leads nowhere (-n).
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -j auto docs build/docs
	@echo "Documentation: build/docs/index.html"

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {v}; say for example: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)

# Where the index of CPU wheels cannot be reached, the next command takes the wheel of the default index instead.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (some minutes the first time)"
	$(INSTALL) --no-deps --retries 1 --timeout 20 --index-url $(TORCH_INDEX) -c constraints.txt torch \
	  || echo "No PyTorch wheel from $(TORCH_INDEX); taking the default index's"
	@touch $@

$(VENV)/.quickstart: pyproject.toml constraints.txt $(VENV)/.torch
	$(INSTALL) -c constraints.txt -e '.[torch]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(VENV)/.torch
	$(INSTALL) -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)-tpu/.compile: EXTRA = tpu
$(VENV)-gpu/.compile: EXTRA = gpu-plan
$(VENV)-tpu/.compile $(VENV)-gpu/.compile: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile -c constraints.txt -e '.[$(EXTRA)]' beartype pytest
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -c constraints.txt -e '.[docs]'
	@touch $@
