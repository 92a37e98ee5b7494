# Each target does its own set-up: a virtual environment in .venv, every dependency, and the native library.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SETUP := $(VENV)/.installed
NATIVE := $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.h)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format benchmark clean

help:
	@echo "make demo       train and compare detectors on a synthetic data set; writes runs/demo/report"
	@echo "make test       the test suite (make test-slow: the tests that take minutes too)"
	@echo "make lint       ruff, mypy, clang-format (make format: apply)"
	@echo "make benchmark  time the ops beside their peers"
	@echo "make setup      only the set-up: .venv, dependencies, native library"

setup: $(SETUP)

# pip's isolated builds do not see the installed torch, so the build's own requirements are installed first.
$(SETUP): pyproject.toml setup.py $(NATIVE)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet "torch>=2.10" "setuptools>=77" "ninja>=1.11"
	$(RUN) -m pip install --quiet --no-build-isolation --editable ".[train,test,lint]"
	$(RUN) -m mdnkernels
	touch $(SETUP)

demo: setup
	$(RUN) -m train demo

test: setup
	$(RUN) -m pytest -m "not slow"

test-slow: setup
	$(RUN) -m pytest

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(NATIVE)

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE)

benchmark: setup
	$(RUN) -m pytest benchmarks --benchmark-only --benchmark-columns=median,min,rounds -s

clean:
	rm -rf $(VENV) build *.egg-info mdnkernels/native/*.so
