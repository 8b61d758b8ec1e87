# `make demo` runs the main job, `make test` the tests, `make docs` makes the site; all make the environment when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Students are trained side by side: a process for each core, up to four.
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(4, len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0))))')

.PHONY: demo test slow lint docs clean

demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node $(PROCESSES) -m attar run dm/digits-ipc1 --out runs/digits

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check --no-cache
	$(BIN)/ruff format --no-cache --check
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site, from the Markdown pages: build/docs/index.html. Warnings are errors.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --builder html --conf-dir docs --doctree-dir build/doctrees --fail-on-warning --keep-going --quiet . build/docs

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attar needs Python 3.11 or newer; make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build src/*.egg-info .pytest_cache .ruff_cache
