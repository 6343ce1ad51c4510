# `make demo` and `make test` do everything on a fresh machine; the stamp makes a second set-up free.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-servers test-families package lint format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/craftc optimize examples/tiny_moe/model.py --gpus 8 --nodes 2 --budget 25% --out build/demo

# One thread each: two workers and the ranks they start already fill two cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Lets SGLang's own loader read what craftc writes: its published wheel without dependencies, about 40 MB.
SERVERS := build/servers
test-servers: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(SERVERS) sglang==0.5.23
	CRAFTC_SERVERS=$(SERVERS) $(BIN)/python -m pytest tests/servers

# Every MoE architecture of the installed transformers, one process each; a table at the end. About 15 minutes.
test-families: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.families

# Wheel and sdist, and the wheel in an environment of its own: alone, then with the libraries of this one.
PACKAGE := build/package
package: $(STAMP)
	rm -rf $(PACKAGE)
	$(BIN)/python -m build --quiet --outdir $(PACKAGE)/dist
	$(PYTHON) -m venv $(PACKAGE)/venv
	$(PACKAGE)/venv/bin/python -m pip install --quiet --no-deps $(PACKAGE)/dist/craftc-*.whl
	cd $(PACKAGE) && venv/bin/python -c 'import craftc, craftc.passes, craftc.solvers'
	cp tests/import_everything.py $(PACKAGE)
	cd $(PACKAGE) && PYTHONPATH=$$($(abspath $(BIN))/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
		venv/bin/python import_everything.py

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build
