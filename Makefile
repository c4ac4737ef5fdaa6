# Every command of the project. A fresh Debian or Ubuntu with Python >= 3.10, venv and make is enough.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
CONSTRAINTS ?= constraints/dev.txt
PIP_EXTRA_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2
DEMO_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install -q $(PIP_EXTRA_ARGS) -c $(CONSTRAINTS)
# Written last, so that an installation that broke off is done again.
STAMP := $(VENV)/.installed
# The interpreters of JetPack 6.2 and 7.2.
BOARD_PYTHONS := 3.10 3.12

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.PHONY: help setup demo test check format clean distclean

help: ## say what there is to do
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile
	@cat tools/setup-help.txt

setup: $(STAMP) ## make .venv and install everything into it

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'setup: $(PYTHON) is missing or older than 3.10; name another one: make setup PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo 'setup: the venv module is missing; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'setup: installing into $(VENV) with the pins of $(CONSTRAINTS); this takes some minutes'
	@$(PIP) torch || \
	  { echo 'setup: pip got no torch that the pins allow; its own message stands above.' >&2; cat tools/setup-help.txt >&2; exit 1; }
	@$(PIP) -e '.[dev]' && $(PIP) --no-deps seglearn || \
	  { echo 'setup: pip could not install everything; its own message stands above.' >&2; cat tools/setup-help.txt >&2; exit 1; }
	@touch $@

demo: setup ## drift, adaptation and swap on real recordings, in two to three minutes
	$(BIN)/python -m demo $(DEMO_ARGS)

test: setup ## the tests; those without torch under the board's Pythons too, where present
	@tools/torch-free-tests "$(BOARD_PYTHONS)" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

check: setup ## format, lint, types and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy edgetuner tools $(wildcard demo benchmarks)
	$(BIN)/python tools/check_imports.py

format: setup ## bring the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what the commands made, except .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)
