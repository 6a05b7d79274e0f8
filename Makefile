# make demo   one long prompt through a real cluster, and the timeline of its plan
# make test   the whole test suite
# make chaos  ten minutes of workers, routers and Redis that die and freeze
# Each sets up what it needs; see README.md.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help install demo serve test chaos lint types contracts check fmt bench clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

# torch comes first and from plain pip: anything that resolves it anew takes gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("mserve needs Python 3.11 or later") if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV) (a few minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0 setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable '.[cpu,dev]'
	@touch $(STAMP)

install: $(STAMP)   # .venv with everything that demo, tests and benchmarks need

demo: $(STAMP)
	@$(BIN)/mserve demo

STRATEGY ?= balanced
ARGS     ?=
serve: $(STAMP)     # keeps serving until Ctrl-C: make serve STRATEGY=migration ARGS='--port 9000'
	$(BIN)/mserve serve $(STRATEGY) $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

chaos: $(STAMP)
	$(BIN)/python -m pytest -m chaos $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy -p mserve
	$(BIN)/mypy tests bench models/train.py

contracts: $(STAMP) # who may import whom
	$(BIN)/lint-imports

check: lint types contracts test

fmt: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	for script in engine transfer disaggregation router_overhead slow_readers prefix_index decision language; do $(BIN)/python bench/$$script.py || exit 1; done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
