# The targets that people run. .ci/run calls the same ones.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Without bytecode each test process would compile hundreds of modules again.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.ready
# PORT is the port of `make dev`. ARGS are further arguments of `make test`, `make bench` and `make soak`.
PORT ?= 3000
ARGS ?=
# Arguments of the simulator in `make soak`: 10,000 steps, 200 a life.
LIVES ?= --lives 50 --steps 200 --processes 2
# Test processes. Each has its own engine, which uses the other cores while it computes.
WORKERS ?= 2

# `make up SPARK=1` also starts the Spark cluster, and runs compute there.
SPARK ?=
COMPOSE := docker compose --file docker/compose.yaml --env-file docker/.env
# The S3 server of docker/compose.yaml. Without it `make test-production` uses moto instead.
S3_SERVER := github.com/versity/versitygw/cmd/versitygw@v1.8.0
PRODUCTION := $(PYTHON) -m pytest -n 0 k2_ohlcv_tests/production

.PHONY: help setup demo dev test lint audit hooks format bench soak lock clean clean-lake up down logs \
  test-production test-all lint-docker

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the pinned dependencies, unless it is up to date

# The package is installed as a link to this folder, without asking an index: its build needs only packages that
# are in .venv already. pip compiles no bytecode. Python compiles a module on its first import, and few of the
# packages, which take 1.6 GB, are imported.
$(STAMP): requirements.txt pyproject.toml
	@set -euo pipefail; \
	if command -v uv >/dev/null; then \
	  [ -x $(PYTHON) ] || uv venv --quiet --python '>=3.11' $(VENV); \
	  uv pip install --python $(PYTHON) -r requirements.txt; \
	  uv pip install --quiet --offline --python $(PYTHON) --no-deps --no-build-isolation -e .; \
	else \
	  if [ ! -x $(PYTHON) ]; then \
	    for python in python3 python3.13 python3.12 python3.11; do \
	      if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$${found:-}" ]; then \
	      echo "Python 3.11 or newer is needed, and neither python3 nor python3.11 to python3.13 is that." >&2; exit 1; \
	    fi; \
	    "$$found" -m venv $(VENV) || { rm -rf $(VENV); \
	      echo "$$found cannot make a virtual environment: install its venv module (python3-venv)." >&2; exit 1; }; \
	  fi; \
	  $(PYTHON) -m pip install --disable-pip-version-check --no-compile -r requirements.txt; \
	  $(PYTHON) -m pip install --disable-pip-version-check --quiet --no-index --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

demo: $(STAMP) ## Make all five candle tables from a bundled week of real trades
	@$(VENV)/bin/k2-ohlcv demo

dev: $(STAMP) ## Dagster's UI and daemon on http://127.0.0.1:3000 (PORT=...), on the same data
	@$(PYTHON) -m k2_ohlcv.cli.dev --port $(PORT)

test: $(STAMP) ## Run the tests (ARGS="-k name" for some of them)
	$(PYTHON) -m pytest -n $(WORKERS) --dist loadgroup -m "not rest" $(ARGS)

lint: $(STAMP) ## Check style, types, insecure code, and known vulnerabilities of dependencies
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTHON) -m tools.audit requirements.txt

audit: $(STAMP) ## Compare the pinned dependencies with known vulnerabilities (skipped without an answer)
	$(PYTHON) -m tools.audit requirements.txt

hooks: $(STAMP) ## Have git run the linters before each commit
	$(VENV)/bin/pre-commit install

format: $(STAMP) ## Format the code, and fix what ruff can fix
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(STAMP) ## Measure against DuckDB and Polars on generated trades
	$(PYTHON) -m bench $(ARGS)

soak: $(STAMP) ## Play a day of trading in fast time, then seeded lives with faults (LIVES="--seed 7")
	$(PYTHON) -m bench.soak $(ARGS)
	$(PYTHON) -m k2_ohlcv_tests.system.simulator $(LIVES)

up: docker/.env ## Start the production shape with Docker (SPARK=1: with a Spark cluster)
	$(COMPOSE) build prepare
	$(if $(SPARK),SPARK_REMOTE=sc://spark-connect:15002) $(COMPOSE) $(if $(SPARK),--profile spark) up --detach
	@echo "Dagster's UI: http://$$($(COMPOSE) port webserver 3000)"

down: docker/.env ## Stop it. Its volumes, with all data, stay
	$(COMPOSE) --profile spark down

logs: docker/.env ## Follow the logs of its services (ARGS=code for one of them)
	$(COMPOSE) --profile spark logs --follow --tail 100 $(ARGS)

# The example, with a random secret in place of each `change-me`. An existing file stays.
docker/.env:
	@umask 077; while IFS= read -r line; do \
	  echo "$${line/%=change-me/=$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')}"; \
	done < docker/example.env > $@.part && mv $@.part $@
	@mkdir -p docker/landing; echo "made docker/.env with new secrets"

test-production: $(STAMP) ## Run the services of docker/compose.yaml without containers (Java, Postgres)
	$(PRODUCTION) -m "not faults and not rest" $(ARGS)

test-all: $(STAMP) lint-docker .tools/versitygw .tools/rest ## All tests: also faults of services, a REST catalog, lint of the image, make soak
	$(MAKE) test
	$(PYTHON) -m pytest -n 0 -m rest
	$(PRODUCTION)
	$(MAKE) soak

.tools/versitygw:
	GOBIN=$(CURDIR)/.tools go install $(S3_SERVER)

# The jars of the REST catalog that tests start. Without Maven those tests are skipped.
.tools/rest: k2_ohlcv_tests/support/rest/pom.xml
	if command -v mvn >/dev/null; then \
	  mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$@ && touch $@; \
	else echo "Maven is not installed: no test runs on a REST catalog"; fi

lint-docker: $(STAMP) ## Check the Dockerfile, and compose.yaml with Docker's own loader (needs Go)
	$(VENV)/bin/hadolint docker/Dockerfile
	rm -rf .tools/lint && mkdir -p .tools && cp -r docker/lint .tools/lint
	cd .tools/lint && go mod tidy && go run . ../../docker/compose.yaml ../../docker/example.env

lock: ## Renew the versions in requirements.txt from pyproject.toml (needs uv and a network)
	uv pip compile --quiet --universal --extra dev --python-version 3.11 --no-header --no-annotate --upgrade \
	  pyproject.toml -o requirements.txt

clean: ## Remove .venv, caches and build outputs, but no data
	rm -rf $(VENV) .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis dist spark-warehouse *.egg-info
	find k2_ohlcv k2_ohlcv_tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

clean-lake: ## Remove .k2: tables, landing files and Dagster's history
	rm -rf .k2
