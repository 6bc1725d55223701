# A fresh machine needs Python 3.11 or newer and make; the rest is installed into .venv.

# Which Python to install with: make PYTHON=/path/to/python; else the best that is found.
PYTHON ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTS ?= tests

.DEFAULT_GOAL := help
.PHONY: help setup demo test sim mutants chaos walk elastic bench bench-peers bench-scaling bench-check lint \
	layers types check clean

# What the test programs are told: make sim SEEDS=1000 becomes --seeds 1000.
option = $(if $($(1)),--$(2) $($(1)))

help:  ## show these lines
	@sed -n 's/^\([a-z-]*\):[^#]*##/\1/p' $(MAKEFILE_LIST) | awk '{ name = $$1; $$1 = ""; printf "  make %-14s%s\n", name, $$0 }'

setup: $(STAMP)  ## make .venv and install everything into it

demo: $(STAMP)  ## start a cluster, kill a leader, add a node, show that nothing is lost
	@$(BIN)/python scripts/demo.py

test: $(STAMP)  ## run the tests (one folder: make test TESTS=tests/raft)
	$(BIN)/python -m pytest -q $(TESTS)

sim: $(STAMP)  ## simulated clusters: SEEDS=1000 or MINUTES=2; SEED=n shows one with its trace
	@PYTHONPATH=tests $(BIN)/python -m sim $(call option,SEED,seed) $(call option,SEEDS,seeds) \
		$(call option,FIRST,first) $(call option,MINUTES,minutes) $(call option,JSON,json) --kept

mutants: $(STAMP)  ## plant each known bug; the simulator must notice (MUTANT=name for one)
	@PYTHONPATH=tests $(BIN)/python -m mutants $(call option,SEEDS,seeds) $(call option,MINUTES,minutes) $(MUTANT)

chaos: $(STAMP)  ## hurt real processes under load: MINUTES=10, KILLS=n, SEED=n, REPORT=folder
	@PYTHONPATH=tests $(BIN)/python -m chaos $(call option,MINUTES,minutes) \
		$(call option,KILLS,kills) $(call option,SEED,seed) $(call option,REPORT,report)

walk: $(STAMP)  ## hurt whoever has a part in a move, at each of its stages: ONLY=name, SEED=n
	@PYTHONPATH=tests $(BIN)/python -m walk $(call option,ONLY,only) $(call option,SEED,seed)

elastic: $(STAMP)  ## measure what it costs to grow, shrink and heal under load
	@$(BIN)/python scripts/elastic.py

bench: $(STAMP)  ## measure speed and its cost: ARGS="--only put --in-flight 256"
	@PYTHONPATH=scripts $(BIN)/python -m bench $(ARGS)

bench-peers: $(STAMP)  ## the same loads on etcd, Redis and PySyncObj in turn: ARGS="--only etcd"
	@PYTHONPATH=scripts $(BIN)/python -m bench.peers $(ARGS)

bench-scaling: $(STAMP)  ## shards, nodes, values, keys, clients, restart, snapshot, model: ARGS="shards"
	@PYTHONPATH=scripts $(BIN)/python -m bench.scaling $(ARGS)

bench-check: $(STAMP)  ## whether operations still cost what they may, in processor time
	@PYTHONPATH=scripts $(BIN)/python -m bench.check

lint: $(STAMP)  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

layers: $(STAMP)  ## each package imports only from floors below its own
	$(BIN)/lint-imports

types: $(STAMP)  ## static types, strict
	$(BIN)/mypy
	MYPYPATH=tests $(BIN)/mypy -p histories -p sim -p chaos -p mutants -p walk -p plain_cli
	MYPYPATH=scripts $(BIN)/mypy -p elasticity -p bench

check: lint types layers  ## lint, layers and types together

clean:  ## remove .venv, caches and build output
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find kvstore tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp says that what pyproject.toml asks for is installed.
$(STAMP): pyproject.toml
	@python="$(PYTHON)"; [ -n "$$python" ] || python=$$(sh scripts/find_python.sh); \
	if [ -z "$$python" ] || ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "kvstore needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	echo "Installing into $(VENV) with $$python ..."; \
	"$$python" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' \
		--config-settings editable_mode=compat  # a plain path, which mypy follows too
	@touch $@
