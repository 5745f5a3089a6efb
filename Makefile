# Every target is complete on a fresh machine with Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-medium test-slow lint docs clean

demo: $(STAMP)
	$(BIN)/python -m vdvae_patch demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slow and not medium"

# The matrices: every host, scale and seam on a stand-in for a GPU, kills, ranks, public models. Continuous integration runs it.
# Of several cases every second one is a slow one, of many two of three; OPTIONS=--whole runs all of them here.
test-medium: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m "medium and not slow" $(OPTIONS)

# What takes more than ten seconds each: whole comparisons, kills and restarts, tables of the paper, long models.
test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadscope -m slow

# The documentation as a site in build/site; a link to a page, a file or an anchor that is not there is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The stamp is younger than what it was made from, so a second run starts at once.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,mpi,tensorboard,hosts,docs]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
