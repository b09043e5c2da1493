# Each target sets up what it needs. Start with: make demo
# The first Python that is new enough; name another with PYTHON=...
PYTHON ?= $(or $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),python3)
# Where pip finds torch. Empty: the default index. CPU only, a tenth of the size:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help demo test test-deployment lint format docs reference bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: fedkalemia needs Python 3.11 or newer, and $(PYTHON) is" \
	       "'$$($(PYTHON) --version 2>&1)'; install one and run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@echo "Creating the environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: $(PYTHON) cannot make environments; on Debian: apt install python3-venv"; exit 2; }

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing pinned dependencies (a few minutes the first time) ..."
	@$(PIP) install --quiet -c constraints.txt $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	@$(PIP) install --quiet -c constraints.txt --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	@echo "Installing the tools for tests and checks ..."
	@$(PIP) install --quiet -c constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.runtime ## Three synthetic hospitals, one federation, a report at every site (runs/demo)
	@$(BIN)/fedkalemia-sim demo --out $(DEMO)

test: $(VENV)/.development ## All tests; set FEDKALEMIA_TEST_DATA for those on real recordings
	@$(BIN)/python -m pytest $(PYTEST)

test-deployment: $(VENV)/.development ## What a deployment survives: killed, cut off, full disk (real processes, minutes)
	@$(BIN)/python -m pytest -m survives $(PYTEST)

lint: $(VENV)/.development ## Style, types, import directions, documentation
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.development ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/.development ## Build the documentation (site/)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

reference: $(VENV)/.development ## Write the reference pages from the code
	@$(BIN)/python docs/generate.py

bench: $(VENV)/.development ## What is claimed about speed, measured here
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## Remove the environment and everything that was built or run
	rm -rf $(VENV) runs site build *.egg-info
