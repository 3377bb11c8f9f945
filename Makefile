# HarmonyØ4. `make demo` shows it, `make test` checks it; both set everything up first, in .venv.
# Needed: Python >= 3.11 with its venv module, make, git, and a package source that pip can reach (for one test npm, too).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The locks are complete, so pip must not resolve anything: with dependencies it also looks at releases newer than
# the pinned ones (as for `coverage[toml]`), and refuses these for having no hash.
INSTALL := $(PIP) install --no-deps --require-hashes
PYTEST_ARGS ?=
FUZZ_TIME ?= 60

help:  ## this list
	@echo 'make demo [PORT=...]   make test [PYTEST_ARGS=...]'
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  \1\t\2/p' Makefile | expand -t 12

demo: $(VENV)/.runtime  ## make a small library of real media and serve it over HTTP
	@$(BIN)/harmony4 demo $(if $(PORT),--port $(PORT))

test: $(VENV)/.dev  ## all tests; those that need ffmpeg, chromium or nginx are skipped where these are missing
	@$(BIN)/pytest $(PYTEST_ARGS)

test-system: $(VENV)/.dev  ## the whole under load, and faults while it is (SYSTEM_TIME=120 seconds)
	@$(BIN)/pytest -s tests/system.py tests/system_signals.py tests/system_faults.py $(PYTEST_ARGS)

soak: $(VENV)/.dev  ## the same for an hour
	@SYSTEM_TIME=3600 $(BIN)/pytest -s -o timeout=0 tests/system.py tests/system_signals.py tests/system_faults.py $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev .link  ## mypy --strict
	MYPYPATH=.link $(BIN)/mypy -p harmony4

tiers: $(VENV)/.dev .link  ## import-linter: no tier reaches where it must not
	PYTHONPATH=.link $(BIN)/lint-imports --no-logo

coverage: $(VENV)/.dev  ## the tests again, with 100 % of the branches of crypto, tokenize and h4mk asked for
	$(BIN)/pytest --cov --cov-report= $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory gate

gate:
	$(BIN)/coverage report --include='crypto/*,tokenize/*,h4mk/*' --show-missing --skip-covered --fail-under=100

bench: $(VENV)/.bench  ## measure (BENCH="long ranges …"; default all) and write docs/PERFORMANCE.md; QUICK=1: try, write nothing
	PYTHONPATH=tests $(BIN)/python -P -m bench $(if $(QUICK),--quick --print) $(BENCH)

big: $(VENV)/.dev  ## ten hours of video and a sparse container of 4 TiB: measured and printed, nothing written
	PYTHONPATH=tests $(BIN)/python -P -m bench --print long sparse

fuzz: $(VENV)/.dev .link  ## fuzz the reader and the demuxing with atheris (Linux x86-64; FUZZ_TIME=60 seconds each)
	$(INSTALL) -r tests/fuzz/requirements.txt
	mkdir -p .build/fuzz/container .build/fuzz/media
	for target in container media; do \
	  case $$target in container) seeds=tests/vectors;; *) seeds=;; esac; \
	  PYTHONPATH=.link:tests $(BIN)/python tests/fuzz/fuzz_$$target.py -max_total_time=$(FUZZ_TIME) \
	    -artifact_prefix=.build/fuzz/ .build/fuzz/$$target $$seeds || exit 1; \
	done

build: $(VENV)/.dev  ## wheel and sdist in dist/
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -c 'from setuptools.build_meta import build_sdist as b; b("dist")' >/dev/null
	@ls -l dist

# In an environment of its own: what looks at the dependencies is none of them.
audit: .build/audit/.ready  ## look the pinned packages up in a list of known vulnerabilities (pip-audit)
	@.build/audit/bin/python .ci/audit.py .build/audit/bin/pip-audit requirements.lock requirements-dev.lock

.build/audit/.ready: | $(BIN)/python
	@$(BIN)/python -m venv .build/audit
	@.build/audit/bin/python -m pip --disable-pip-version-check --quiet install pip-audit==2.10.1
	@touch $@

lock:  ## pin the dependencies anew (Python 3.11; delete the lock files first to upgrade)
	python3.11 -m venv .build/lock
	.build/lock/bin/python -m pip --quiet install pip-tools==7.6.2
	.build/lock/bin/python .ci/lock.py

clean:  ## everything that make made, the demo library included
	rm -rf $(VENV) .link .build build dist demo-library *.egg-info .coverage* .pytest_cache .mypy_cache \
	  .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# mypy and import-linter do not see setuptools' editable finder: they get the packages as a folder of links.
.link:
	mkdir -p .link/harmony4
	for tier in crypto h4mk tokenize server static; do ln -sfn ../../$$tier .link/harmony4/$$tier; done

$(BIN)/python:
	@found=; for name in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$name; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo 'error: no Python 3.11 or newer found (looked for python3.13, python3.12, python3.11, python3, python);' >&2; \
	  echo '       install one, or name it: make PYTHON=/path/to/python' >&2; exit 1; \
	fi; \
	if ! $$found -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  echo "error: $$found has no venv module (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; \
	fi; \
	echo "setting up $(VENV) with $$($$found --version)" >&2; \
	$$found -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	@echo 'installing what the server needs (requirements.lock) ...' >&2
	@$(INSTALL) -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo 'installing what the server and its tests need (requirements-dev.lock) ...' >&2
	@$(INSTALL) -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@touch $@ $(VENV)/.runtime

# Beside the lock of development: the servers that ours is compared with.
$(VENV)/.bench: tests/bench/requirements.txt $(VENV)/.dev
	@echo 'installing the peers (tests/bench/requirements.txt) ...' >&2
	@$(INSTALL) -r tests/bench/requirements.txt
	@$(PIP) check
	@touch $@

.PHONY: help demo test test-system soak lint types tiers coverage gate bench big fuzz audit build lock clean
