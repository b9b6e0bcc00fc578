# agentmesh: `make up` starts the example mesh, `make test` runs every test. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ONLY ?=
ARGS ?=
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

.PHONY: help up test demo check stubs bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "agentmesh needs Python 3.11 or newer; point PYTHON= at one, for example: make up PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing pinned dependencies (first run: about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@echo "installing pinned test dependencies"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

up: $(VENV)/.installed ## start the example mesh in the foreground; Ctrl-C stops all of it
	@$(BIN)/meshctl up $(ARGS)

demo: $(VENV)/.installed ## start the example mesh, take a scripted tour of it, stop it
	@$(BIN)/meshctl demo $(ARGS)

test: $(VENV)/.installed-dev ## run every test, with real Consul and Envoy
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: $(VENV)/.installed-dev ## format, lint, types, import arrows, contracts, stubs, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python tests/stubs_are_fresh.py
	$(BIN)/python -m pytest -q $(PARALLEL) tests/unit

PROTOS = $(shell find protos -name '*.proto' | sort)

stubs: $(VENV)/.installed-dev ## generate the gRPC stubs in generated/ from protos/
	@$(BIN)/python generated/generate.py

bench: $(VENV)/.installed-dev ## measure the mesh; `make bench ONLY=name` runs one benchmark
	@$(BIN)/python -m benchmarks $(ONLY)

conformance: $(VENV)/.installed-dev ## run the conformance suite of MCP through a mesh
	@$(BIN)/python -m pytest -s tests/e2e/test_conformance.py $(ARGS)

lock: ## pin the dependencies anew (needs uv)
	uv pip compile --extra dev --extra build --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-header -q pyproject.toml -o requirements-dev.txt
	uv pip compile --extra build --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-header -q -c requirements-dev.txt pyproject.toml -o requirements.txt

clean: ## remove the virtual environment, fetched tools and the mesh's state
	rm -rf $(VENV) .tools .mesh
