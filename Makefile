PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install demo test lint bench table weights clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

install: $(VENV)/installed  ## Create .venv with dualproc and its development tools

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## Train the shipped generator to draw thin and thick outlines, and evaluate it
	$(BIN)/dp run specs/line_weight.yaml --overwrite

test: install  ## Run the tests, on up to 4 cores
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: install  ## Run ruff, mypy and import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## Train and evaluate every variant of every spec; resumes (start again: make bench ARGS=--overwrite)
	$(BIN)/dp bench specs/ $(ARGS)

table: bench  ## Run the bench, then write its tables and images into README.md and docs/
	$(BIN)/python -m tools.results

weights: install  ## Train the shipped checkpoints again (hours on two cores; downloads OpenMoji from npm)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[world]'
	$(BIN)/python -m tools.tiny_world.build

clean:  ## Delete everything that make has created, except runs/
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
