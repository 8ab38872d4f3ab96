# make install | demo | test | test-slow | bench | lint | fix | lock
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := gemma,eval,train,index,ray,serve,reasonaug,dev
# Bytecode comes with a module's first import; compiling all of it beforehand takes a minute.
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

# Data sets and converter fixtures are not part of the repository; tests that need them skip without them.
ifneq ($(wildcard ../shared/data),)
export DIFFEMBED_DATA ?= $(abspath ../shared/data)
endif
ifneq ($(wildcard ../shared/fixtures/converters),)
export DIFFEMBED_FIXTURES ?= $(abspath ../shared/fixtures/converters)
endif

.PHONY: install demo test test-slow bench lint fix lock clean
.DEFAULT_GOAL := install

install: $(STAMP)

# torch goes first and alone, so that the index in use decides its build before anything else asks for it.
$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[$(EXTRAS)]'
	touch $@

demo: install
	$(BIN)/diffembed compare

# Tiny tensors gain nothing from threads; two processes gain nearly a factor of two.
test: install
	OMP_NUM_THREADS=1 $(PYTEST) --numprocesses 2 -m "not slow"

test-slow: install
	OMP_NUM_THREADS=1 $(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 12 -m slow

bench: install
	$(BIN)/python -m benchmarks.encode
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.serve

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry src benchmarks

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Resolves every extra anew in an empty environment and pins what came out, without build tags such as +cpu.
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet "$$(sed -n '/^torch==/p' constraints.txt)"
	build/lock/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	sed -n '/^#/p' constraints.txt > build/constraints.txt
	build/lock/bin/python -m pip freeze --all --exclude-editable | sed '/^pip==/d; s/+[a-z0-9.]*$$//' >> build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
