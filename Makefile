# Seven targets: demo, demo-all, test, check, bench, soak, mutants. Each makes .venv first where it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 3
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: demo demo-all test check bench soak mutants

demo: $(VENV)/ready
	$(BIN)/metarisk demo

demo-all: $(VENV)/ready
	$(BIN)/metarisk demo --all

# One thread a process: several that wait for each other on busy cores take many times as long.
test: export OMP_NUM_THREADS := 1
test: $(VENV)/ready
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/ready
	$(BIN)/python -m tests.benchmarks

soak: $(VENV)/ready
	$(BIN)/python -m tests.soak

mutants: $(VENV)/ready
	$(BIN)/python -m tests.mutants

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
