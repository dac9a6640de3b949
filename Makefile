# The two commands of the README. Python 3.11 or newer and make are needed; see CONTRIBUTING.md for the tests.
#
#   make demo        install mlux into .venv and run the main job on the built-in model
#   make test        install the tools too (and a browser, if need be), then every check and every test
#
# Both install once: the stamps below are older than pyproject.toml only when it has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch
SOURCES := mlux experiments migrations tests benchmarks tools

.DEFAULT_GOAL := help
.PHONY: help demo install test lint format check pytest soak browser parity bench demo-model example-db dist clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## install mlux and run the main job on the built-in model
	$(BIN)/mlux demo
	@echo 'Before that, in this folder: . $(VENV)/bin/activate' >&2

install: $(VENV)/.dev ## install mlux and the tools of its developers into .venv

# Two tests at once, so one core for the products of each: more threads would only wait for cores.
ONE_CORE := OPENBLAS_NUM_THREADS=1

test: lint pytest ## every check and every test

lint: $(VENV)/.dev ## style, types, layers, dependencies
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy mlux experiments migrations
	$(BIN)/lint-imports
	$(BIN)/deptry mlux experiments migrations

pytest: $(VENV)/.browser ## the tests alone; ARGS="-k lens" chooses some
	$(ONE_CORE) $(BIN)/pytest -n 2 --dist worksteal $(ARGS)

soak: $(VENV)/.browser ## the tests that take minutes: hundreds of kills, thousands of inputs
	$(ONE_CORE) $(BIN)/pytest -n 2 -m soak --timeout 1500 $(ARGS)

browser: ## look again for a browser for the tests of pages, and get one where that needs no question
	@rm -f $(VENV)/.browser
	@$(MAKE) --no-print-directory $(VENV)/.browser

parity: $(VENV)/.parity ## the engine against transformers; TORCH=torch==2.13.0 chooses a torch
	$(BIN)/pytest tests/parity $(ARGS)

format: $(VENV)/.dev ## let ruff mend what it can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.dev ## the speed of the commands, of the engine and of matrix products
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/engine_overhead.py
	$(BIN)/python benchmarks/blas.py

demo-model: $(VENV)/.dev ## train the built-in model again, from generated text
	$(BIN)/python -m tools.demo_model

example-db: $(VENV)/.dev ## rebuild mlux.db.example
	$(BIN)/python -m tools.example_db

dist: $(VENV)/.dev ## build the wheel and the source archive
	$(BIN)/python -m build

clean: ## remove what make made, .venv included
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mlux needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[plot]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

# Once: without a network each try takes its time.
$(VENV)/.browser: $(VENV)/.dev
	$(BIN)/python -m tools.browser
	@touch $@

# `make parity` alone: torch is large, and only the reference needs it. TORCH is what pip installs:
# a version with a CPU build on the package index in use, or the path of a wheel.
$(VENV)/.parity: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,parity]' '$(TORCH)'
	@touch $@
