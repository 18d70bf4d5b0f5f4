PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install demo test lint bench table weights clean

help:  ## What there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

install: $(VENV)/installed  ## A virtual environment with dualproc and its tools

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## Train the shipped generator thin and thick outlines, and measure it
	$(BIN)/dp run specs/line_weight.yaml --overwrite

test: install  ## The tests
	$(BIN)/python -m pytest

lint: install  ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## Every variant of every spec; goes on where it was (anew: make bench ARGS=--overwrite)
	$(BIN)/dp bench specs/ $(ARGS)

table: bench  ## The bench, and its table and gallery into the README
	$(BIN)/python -m tools.readme

weights: install  ## Train the shipped checkpoints again (hours on two cores; fetches OpenMoji from npm)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[world]'
	$(BIN)/python -m tools.tiny_world.build

clean:  ## Everything that was made here, but for runs/
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
