# Three commands on a machine with nothing but Python 3.11 or newer: `make demo`, `make test` and `make docs`.
# One environment (.venv) serves all; stamp files make the second call instant.
#
# On Linux PyPI's torch brings several GB of CUDA libraries. Without a GPU, spare them:
#   make demo PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PIP_ARGS ?=
WORKERS ?= 2
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS)

.PHONY: demo test lint docs clean

demo: $(VENV)/.demo
	$(BIN)/remodel demo

# One thread a worker: two workers on two cores beat one worker with two threads. Neighbours share fixtures, so each
# worker begins with half of the tests, and takes over what the other has left.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site in site/. Built offline, and complete: reading it fetches nothing. A warning is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	rm -rf $(VENV) dist site remodel-demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing remodeler into $(VENV): a few minutes, the first time."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing remodeler with its test tools into $(VENV): a few minutes, the first time."
	$(INSTALL) --editable '.[eval,test,dev,docs]'
	@touch $(VENV)/.demo $(VENV)/.docs $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing remodeler with its documentation tools into $(VENV): a few minutes, the first time."
	$(INSTALL) --editable '.[docs]'
	@touch $(VENV)/.demo $@

$(BIN)/pip:
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or newer found: install one, or name it with 'make PYTHON=/path/to/python3.11'." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
