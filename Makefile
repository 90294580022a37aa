# The commands of the README. `make env` takes the newest of Python 3.12 and
# 3.11 that runs here; `make env PYTHON=python3.11 VENV=.venv311` chooses.
# `make env EXTRA=cuda` (or cuda13, tpu) adds an extra of setup.cfg, not locked.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3,$(if \
  $(shell $(p) -c 'import sys; print(sys.version_info[:2] in ((3, 11), (3, 12)) or "")' \
  2>/dev/null),$(p))))
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: env demo package test test-fast lint docs lock clean

env: $(VENV)/installed $(if $(EXTRA),$(VENV)/installed-$(EXTRA))

# pip checks every file against the hashes of the lock before installing it.
$(VENV)/installed: requirements/lock-py311.txt requirements/lock-py312.txt setup.cfg setup.py
	@test -n "$(PYTHON)" || { echo "pausejax needs Python 3.11 or 3.12"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes \
	  -r requirements/lock-py$$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])').txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# pip keeps what the lock installed and adds what goes with it.
$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-build-isolation -e '.[$*]'
	touch $@

# The core alone, without TensorFlow, unless `make env` was there before.
demo: $(if $(wildcard $(VENV)/installed),env,$(VENV)/core)
	BIN=$(BIN) sh launch/demo.sh

$(VENV)/core: requirements/core-py311.txt requirements/core-py312.txt setup.cfg setup.py
	@test -n "$(PYTHON)" || { echo "pausejax needs Python 3.11 or 3.12"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	@lock=requirements/core-py$$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])').txt; \
	  count=$$(grep -c '^[a-z].*==' $$lock); \
	  echo "installing JAX and what it needs into $(VENV): $$count packages"; \
	  { $(BIN)/python -m pip install --require-hashes -r $$lock || echo failed; } 2>&1 | \
	  awk -v count=$$count '/^ *Collecting/ { printf "\r%d of %d", ++n, count; fflush() } \
	    /^ERROR/ { print } /^failed/ { bad = 1 } \
	    /^Installing/ { printf "\runpacking    "; fflush() } END { print ""; exit bad }'
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# sdist and wheel, built and run in a clean environment.
package:
	.ci/package $(PYTHON)

test: env
	$(BIN)/python -m pytest

test-fast: env
	$(BIN)/python -m pytest -m "not slow"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site, in docs/_build, with its notebooks run and warnings as errors.
docs: env
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/docs-py$$($(BIN)/python -c \
	  'import sys; print("%d%d" % sys.version_info[:2])').txt
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build

# The locks anew, for the newest releases that setup.cfg admits. The TPU's
# compiler, which CI asks, has one of its own: where it is installed, JAX looks
# for TPUs and says so on every start.
LOCK := uv pip compile --custom-compile-command "make lock" --upgrade --generate-hashes
EXTRAS := --extra=seqio --extra=tensorboard --extra=dev
lock:
	$(LOCK) setup.cfg requirements/build.in $(EXTRAS) --python-version 3.11 \
	  -o requirements/lock-py311.txt
	$(LOCK) setup.cfg requirements/build.in $(EXTRAS) --python-version 3.12 \
	  -o requirements/lock-py312.txt
	$(LOCK) setup.cfg requirements/build.in -c requirements/lock-py311.txt \
	  --python-version 3.11 -o requirements/core-py311.txt
	$(LOCK) setup.cfg requirements/build.in -c requirements/lock-py312.txt \
	  --python-version 3.12 -o requirements/core-py312.txt
	$(LOCK) setup.cfg --extra=docs -c requirements/lock-py311.txt --python-version 3.11 \
	  -o requirements/docs-py311.txt
	$(LOCK) setup.cfg --extra=docs -c requirements/lock-py312.txt --python-version 3.12 \
	  -o requirements/docs-py312.txt
	$(LOCK) requirements/tpu.in -c requirements/lock-py311.txt --python-version 3.11 \
	  -o requirements/tpu-py311.txt

clean:
	rm -rf $(VENV) demo docs/_build docs/generated *.egg-info
