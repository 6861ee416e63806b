# Two verbs for a newcomer: `make demo` and `make test`. Each sets up its own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-fast test-slow test-cluster lint types format bench gpu install clean

demo: install
	$(BIN)/taudl demo --out demo

test: test-fast test-slow

test-fast: install
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: install
	$(BIN)/python -m pytest -m "slow and not gpu"

# Ray jobs on several hosts that are cut off, killed and added; the hosts are namespaces of this machine: needs root, iproute2, 10 minutes on two busy cores
test-cluster: install
	TAUDL_HOSTS=1 $(BIN)/python -m pytest tests/cluster_hosts

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python benchmarks/ccta.py

# on a machine with a GPU; GPU_ARGS="--device cpu --small" shows what it prints anywhere
gpu: install
	$(BIN)/python -m benchmarks.gpu $(GPU_ARGS)

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python >= 3.11 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) (about 7 GB; a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .mypy_cache
