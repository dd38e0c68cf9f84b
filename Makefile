# Everything runs in .venv, made on first use: only make and Python 3.11 or newer are needed.
# Another interpreter: make test PYTHON=/path/to/python3.12
PYTHON ?= python3
# A file's tests stay in one process; more than four processes wait for each other's imports.
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 4 --dist loadfile

BIN := .venv/bin
INPUTS := pyproject.toml requirements/lock.txt
FOR_TESTS := .venv/installed-for-tests
FOR_DEVELOPMENT := .venv/installed-for-development

# Byte-compiling thousands of files that are never imported would take most of the install: leave it
# to the first import of each, which must then be allowed to keep its result.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint requirements/lock.txt
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types contract mutants bench pair figure lock

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(FOR_TESTS)  ## distil the shipped teacher, measure and report on this machine: runs/demo/report.md
	$(BIN)/sdtt demo --output runs/demo --overwrite

test: $(FOR_TESTS)  ## the test suite, without the slow and gpu tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint types contract test  ## lint, types, import contract and tests

lint: $(FOR_DEVELOPMENT)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(FOR_DEVELOPMENT)  ## mypy, strict, on src
	$(BIN)/mypy

contract: $(FOR_TESTS)  ## which folder may import which
	$(BIN)/lint-imports --no-logo

mutants: $(FOR_TESTS)  ## break each law on purpose: its test must turn red
	$(BIN)/python tests/mutants.py

bench: $(FOR_TESTS)  ## speed and memory, each against an alternative in the same run
	@set -e; found=; \
	for file in benchmarks/*.py; do \
	  [ -e "$$file" ] || continue; \
	  found=yes; echo "== $$file"; $(BIN)/python "$$file"; \
	done; \
	[ -n "$$found" ] || echo "There are no benchmarks yet: benchmarks/*.py is empty."

# The files are the targets: a run that is done is not begun again, one that was cut off goes on.
PAIR := runs/pair
RECIPES := configs/recipes
SHARDS = $(SDTT_DATA)/gutenberg/train-00.jsonl.xz,$(SDTT_DATA)/gutenberg/train-01.jsonl.xz

pair: $(PAIR)/student/finished $(PAIR)/caching/finished  ## train and measure the shipped pair, in hours: make pair SDTT_DATA=folder
	$(BIN)/python studies/pair.py measure --run $(PAIR) --data $(SDTT_DATA)/gutenberg --output $(PAIR)/measured
	$(BIN)/python studies/pair.py draw --output $(PAIR)/measured

$(PAIR)/judge/finished: | $(FOR_TESTS)
	@test -n "$(SDTT_DATA)" || { echo "make pair needs the text: make pair SDTT_DATA=/folder/that/holds/gutenberg"; exit 2; }
	$(BIN)/sdtt pretrain --config $(RECIPES)/pair_judge.yaml --data "$(SHARDS)" --output $(@D) --auto-resume $(PAIR_FLAGS)
	@touch $@

$(PAIR)/start/finished: $(PAIR)/judge/finished
	$(BIN)/sdtt pretrain --config $(RECIPES)/pair_start.yaml --data "$(SHARDS)" --output $(@D) --tokenizer $(PAIR)/judge --auto-resume $(PAIR_FLAGS)
	@touch $@

$(PAIR)/teacher/finished: $(PAIR)/start/finished
	$(BIN)/sdtt pretrain --config $(RECIPES)/pair_teacher.yaml --data "$(SHARDS)" --output $(@D) --init-from $(PAIR)/start --judge $(PAIR)/judge --auto-resume $(PAIR_FLAGS)
	@touch $@

$(PAIR)/student/finished: $(PAIR)/teacher/finished
	$(BIN)/sdtt distill --config $(RECIPES)/pair_student.yaml --data "$(SHARDS)" --output $(@D) --model $(PAIR)/teacher --judge $(PAIR)/judge --auto-resume $(PAIR_FLAGS)
	@touch $@

$(PAIR)/caching/finished: $(PAIR)/teacher/finished
	$(BIN)/sdtt pretrain --config $(RECIPES)/pair_caching.yaml --data "$(SHARDS)" --output $(@D) --init-from $(PAIR)/teacher --auto-resume $(PAIR_FLAGS)
	@touch $@

figure: $(FOR_TESTS)  ## the pair's table and figure, results/pair/, from its records
	$(BIN)/python studies/pair.py draw
	$(BIN)/python studies/gains.py table

lock:  ## pin the newest versions that pyproject.toml allows in requirements/lock.txt
	rm -rf .venv/lock
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet --no-compile --upgrade pip
	.venv/lock/bin/python -m pip install --quiet --no-compile ".[dev]"
	{ sed '/^[^#]/,$$d' requirements/lock.txt; \
	  .venv/lock/bin/python -m pip freeze --all --exclude sdtt \
	    | sed -E -e '/^(nvidia-|cuda-|triton)/d' -e 's/\+[a-z0-9.]+$$//'; } > requirements/lock.new
	mv requirements/lock.new requirements/lock.txt
	rm -rf .venv/lock

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sdtt needs Python 3.11 or newer, got %d.%d; name one with make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

# A recent pip installs in half the time of those that Python ships. Without build isolation the build
# backends come from the lock, once: ours is hatchling; rouge_score, which lm-evaluation-harness asks for, has no
# wheel and is built by setuptools (that of a new venv knows no bdist_wheel; a cache of built wheels hides it).
$(FOR_TESTS): $(INPUTS) | $(BIN)/python
	$(INSTALL) --upgrade pip hatchling setuptools
	$(INSTALL) --no-build-isolation --editable ".[test]"
	@touch $@

$(FOR_DEVELOPMENT): $(INPUTS) | $(FOR_TESTS)
	$(INSTALL) --no-build-isolation --editable ".[dev]"
	@touch $@
