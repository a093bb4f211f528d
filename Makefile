# Two commands: `make demo` and `make test`. Everything lives in .venv, set up once.
PYTHON ?= python3
JOBS   ?= 2
ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp-installed
CORE   := $(VENV)/.stamp-core

# One thread per process: the suite runs JOBS processes, and bit-equality tests hold for a fixed number of threads.
TEST_ENV := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-avx2 check lint types format clean

help:            ## What there is
	@sed -n 's/^\([a-z0-9-]*\): *[^#]*## */  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP)  ## Create .venv and install unreel with its development tools

# torch comes through the pin of constraints.txt; an open range takes gigabytes of CUDA wheels on a CPU machine.
install = @start=$$(date +%s); \
	echo "set-up: creating $(VENV) and installing (about a minute)"; \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)' \
	  && echo $$(( $$(date +%s) - start )) > $@ \
	  && echo "set-up: $$(cat $@) s"

$(STAMP): pyproject.toml constraints.txt
	$(call install,.[dev])

# What the demo needs is less: none of the tools and extras.
$(CORE): pyproject.toml constraints.txt
	$(call install,.)

demo: $(CORE)    ## The whole path on a built-in world: train, prove, report (3 minutes on 2 cores)
	@echo "set-up took $$(cat $(CORE)) s"
	$(BIN)/unreel demo $(ARGS)

test: $(STAMP)   ## The whole suite (4 minutes on 2 cores)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# What stands for a processor without AVX-512; the folders whose results are numbers of torch's.
NO_AVX512 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
NUMERIC   := $(addprefix tests/,nn views losses methods train explain protocols contracts cases/test_kernels.py)

test-avx2: $(STAMP) ## The numeric part of the suite, as on a processor without AVX-512
	$(NO_AVX512) $(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) $(NUMERIC) $(ARGS)

check: $(STAMP)  ## The unit part of the suite
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not ddp and not gpu" $(ARGS)

lint: $(STAMP)   ## Style, formatting and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

format: $(STAMP) ## Rewrite files in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## Remove the demo's run and build leftovers (not .venv)
	rm -rf demo-run build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
