# The few commands that matter; each line's comment is its help.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test studies lint type bench clean

help: ## show this help
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make the environment in .venv

$(STAMP): requirements.lock pyproject.toml clients/python/pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e clients/python -e .
	@touch $(STAMP)

demo: $(STAMP) ## run the Statlog loop through the real service, with summary, picture and report
	@$(BIN)/rewardloop demo $(ARGS)

# hundreds of processes start: what they compile is kept, whatever the shell says
test: $(STAMP) ## run all tests but those that need node or Chromium
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not external" $(ARGS)

studies: $(STAMP) ## run the full simulation studies (long) and write their results
	@$(BIN)/python -m benchmarks.studies $(ARGS)

lint: $(STAMP) ## check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(STAMP) ## check types
	@$(BIN)/mypy

bench: $(STAMP) ## measure speed against yardsticks in the same run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.lock
	@$(BIN)/python -m benchmarks.bench $(ARGS)

clean: ## remove the environment and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
