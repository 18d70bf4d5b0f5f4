PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install demo test test-lowest nightly lint bench table sliders weights clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

install: $(VENV)/installed  ## Create .venv with dualproc and its development tools

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## Train the shipped generator to draw thin and thick outlines, and evaluate it
	$(BIN)/dp run specs/line_weight.yaml --overwrite

test: install  ## Run the tests, on up to 4 cores
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-lowest:  ## Run the tests with the lowest versions of the dependencies, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt --editable '.[dev]'
	.venv-lowest/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

nightly: test-lowest install  ## Run the tests with the lowest versions, then the long tests
	$(BIN)/python -m pytest -m nightly

lint: install  ## Run ruff, mypy and import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## Train every variant of every spec with 3 seeds, 24 images per prompt; resumes (start again: make bench ARGS=--overwrite)
	$(BIN)/dp bench specs/ --seeds 3 --jobs 2 --set evaluation.seeds=24 $(ARGS)

table: bench  ## Run the bench, then write its tables and images into README.md and docs/
	$(BIN)/python -m tools.results

sliders: install  ## Train the sliders, then write their tables and image into README.md and docs/ (20 minutes)
	$(BIN)/python -m tools.sliders

weights: install  ## Train the shipped checkpoints again (hours on two cores; downloads OpenMoji from npm)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[world]'
	$(BIN)/python -m tools.tiny_world.build

clean:  ## Delete everything that make has created, except runs/
	rm -rf $(VENV) .venv-lowest build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
