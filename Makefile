# The commands of the project. Only Python 3.11+ and make are needed to begin.

PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=
# Runners, each with a Kafka of its own (most of the time is waiting); JOBS=0 runs the tests one after the other.
JOBS ?= 3

.PHONY: help run test verify drills bench observe clean environment format lint types

help:
	@echo "make run      everything on this machine: Kafka, topics, gateway, consumers, demonstration"
	@echo "              (ARGS=--once: send, check, exit)"
	@echo "make test     format, lint, types, tests, a real Kafka included (ARGS goes to pytest)"
	@echo "              (JOBS=0: one after the other, where a test is looked into)"
	@echo "make verify   what needs more than Python packages: Prometheus and its Alertmanager,"
	@echo "              PHP (php-cli), and the drills in short form"
	@echo "make drills   the long fault drills;  make bench  the benchmarks"
	@echo "make observe  faults on purpose, and whether the alerts tell of them: half an hour,"
	@echo "              needs Prometheus; writes docs/operations.md (ARGS=consumer-stopped: only that)"
	@echo "make format   lay the code out;  make lint, make types  look at it"
	@echo "make clean    remove .venv, .local and caches"

environment:
	@$(PYTHON) deploy/environment.py

run: environment
	@$(PY) -m deploy local $(ARGS)

test: environment
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

# One line per thing verified. A missing tool fails by name.
verify: environment verify-php verify-rules verify-prometheus verify-drills

.PHONY: verify-php verify-rules verify-prometheus verify-drills
verify-php:
	$(PY) -m pytest $(ARGS) tests/verify_php.py
verify-rules:
	$(PY) -m pytest $(ARGS) tests/verify_rules.py
verify-prometheus:
	$(PY) -m pytest $(ARGS) tests/verify_prometheus.py

# The drills in short form: the same faults, fewer deliveries.
verify-drills:
	DRILL_DELIVERIES=3000 $(PY) -m pytest -o python_files='drill_*.py' $(ARGS) tests

drills: environment
	@if ls tests/drill_*.py >/dev/null 2>&1; then \
		$(PY) -m pytest -o python_files='drill_*.py' $(ARGS) tests; \
	else \
		echo "drills: there are none yet (tests/drill_*.py)"; \
	fi

bench: environment
	@if ls tests/bench_*.py >/dev/null 2>&1; then \
		for bench in tests/bench_*.py; do \
			$(PY) -m "tests.$$(basename "$$bench" .py)" $(ARGS) || exit 1; \
		done; \
	else \
		echo "bench: there are none yet (tests/bench_*.py)"; \
	fi

observe:
	@$(PYTHON) deploy/environment.py observe
	@$(PY) -m deploy observe $(ARGS)

format: environment
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

lint: environment
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

types: environment
	$(PY) -m mypy

clean:
	rm -rf .venv .local .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
