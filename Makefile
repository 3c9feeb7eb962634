# Two commands set everything up on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FUZZ_RUNS ?= 10000000

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench coverage soak fuzz format lock clean packages

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

demo: $(VENV)/demo.stamp  ## both plants, the gateway and its page; Ctrl-C ends it all
	@$(BIN)/python -m simulators.demo

test: packages $(VENV)/test.stamp lint  ## lint, then every test, against real servers
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/test.stamp  ## ruff, mypy --strict, the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/test.stamp  ## the figures of bench/RESULTS.md
	$(BIN)/python -m bench

coverage: packages $(VENV)/test.stamp  ## branches of spool and sinks that the tests go through
	$(BIN)/coverage erase
	SLUICEGATE_WORLDS=5000 $(BIN)/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	-$(BIN)/coverage combine -q --append  # what a killed process left cannot be read
	$(BIN)/coverage report

soak: packages $(VENV)/test.stamp  ## a plant and kills counted in a database; a million worlds (hours)
	$(BIN)/python -m bench.soak
	$(BIN)/python -m bench.modbus_soak --minutes 10
	SLUICEGATE_WORLDS=1000000 SLUICEGATE_WRECKS=100000 SLUICEGATE_KILLS=1000 SLUICEGATE_IMAGES=100 \
		$(BIN)/python -m pytest tests/faults --timeout 14400

fuzz: $(VENV)/test.stamp  ## ten million executions of codecs and readers, guided by coverage (FUZZ_RUNS)
	$(BIN)/python -m tests.fuzz --runs $(FUZZ_RUNS)
	SLUICEGATE_POLLS=1000000 $(BIN)/python -m pytest -q -n 2 tests/sources/modbus/test_polls.py

format: $(VENV)/test.stamp  ## ruff, mending what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## resolve the dependencies of pyproject.toml anew (needs uv)
	deploy/locks/resolve

packages:
	@tests/install-packages

clean:  ## remove everything that make made
	rm -rf $(VENV) .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/%.stamp: deploy/locks/%.lock pyproject.toml
	@deploy/locks/install "$(PYTHON)" $(VENV) $<
	@touch $@
