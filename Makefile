# Two commands for a newcomer: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo arena test test-browser test-slow lint format types check wheel clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "MagicVideo Arena needs Python 3.11 or newer; set PYTHON=python3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (torch and friends; a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	@touch $@

demo: $(STAMP) ## A bench, an ablation, a gate, a study and one report over them
	@$(ENV) $(BIN)/magicvideo demo --dir demo

arena: $(STAMP) ## Vote on the demo's study in the browser
	@$(BIN)/magicvideo arena serve --db sqlite:///demo/magicvideo.db

test: $(STAMP) ## The default tests
	@$(ENV) $(BIN)/python -m pytest -m "not slow and not browser and not gpu" $(ARGS)

test-browser: $(STAMP) ## The pages in a real headless Chromium
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium; } \
		|| echo "no Chromium found and none could be installed"
	@$(ENV) $(BIN)/python -m pytest -m browser $(ARGS)

test-slow: $(STAMP) ## Tests that take minutes
	@$(ENV) $(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP) ## Format, lint and import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

format: $(STAMP) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: $(STAMP) ## Type-check the packages
	@$(BIN)/mypy

wheel: $(STAMP) ## Build the wheel and use it outside the checkout
	@.ci/wheel $(BIN)/python

check: lint types test test-browser wheel ## All of the above: what the gate runs

clean: ## Remove what the commands above made, the demo's votes included
	rm -rf $(VENV) demo build dist
