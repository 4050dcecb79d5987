# Everything a person needs, on a machine with Python 3.11, make, git and a package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 3000
SEED ?= 0
VENV := .venv
STAMP := $(VENV)/.complete
LMMS_VENV := .venv-lmms
LMMS_STAMP := $(LMMS_VENV)/.complete
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.complete

export FUTURE_L1_HOME ?= $(CURDIR)/.future-l1
export FUTURE_L1_PROFILE ?= demo
export SEED

.PHONY: setup demo test ui check audit fuzz bench gpu kills interop regenerate pictures clean

$(STAMP): constraints.txt pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $(STAMP)

setup: $(STAMP)

demo: $(STAMP)
	$(VENV)/bin/future-l1 demo

ui: $(STAMP)
	$(VENV)/bin/future-l1 ui --port $(PORT)

# compiled once: hundreds of processes would each do it, where PYTHONDONTWRITEBYTECODE is set
test: $(STAMP)
	$(VENV)/bin/python -m compileall -q assets evaluation pipelines training tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --ignore=tests/performance --ignore=tests/kills --durations=30 --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	for profile in demo paper; do FUTURE_L1_PROFILE=$$profile VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/dg check defs || exit; done
	$(VENV)/bin/python -m tests.audit constraints.txt

audit: $(STAMP)
	$(VENV)/bin/python -m tests.audit constraints.txt

fuzz: $(STAMP)
	$(VENV)/bin/python -m tests.fuzz $(FUZZ)

kills: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -v tests/kills

$(LMMS_STAMP): tests/interop/requirements.txt
	test -x $(LMMS_VENV)/bin/python || $(PYTHON) -m venv $(LMMS_VENV)
	$(LMMS_VENV)/bin/python -m pip install --quiet --requirement tests/interop/requirements.txt
	touch $(LMMS_STAMP)

$(VLLM_STAMP): tests/interop/requirements-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --requirement tests/interop/requirements-vllm.txt
	touch $(VLLM_STAMP)

interop: $(STAMP) $(LMMS_STAMP) $(VLLM_STAMP)
	test -e $(FUTURE_L1_HOME)/summary.json || $(VENV)/bin/future-l1 demo
	HF_HUB_DISABLE_PROGRESS_BARS=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 \
		$(VENV)/bin/python -m tests.interop $(LMMS_VENV)/bin/python $(VLLM_VENV)/bin/python

regenerate: $(STAMP)
	$(VENV)/bin/python -m tests.frozen

pictures: $(STAMP)
	$(VENV)/bin/python -m tests.pipelines.screenshots $(FUTURE_L1_HOME) $(FUTURE_L1_PROFILE)

bench: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --durations=20 tests/performance

# nothing is installed: PYTHON where it is given, else the environment where there is one
gpu:
	$(if $(filter command environment,$(origin PYTHON)),$(PYTHON),$(firstword $(wildcard $(VENV)/bin/python) python3)) -m tests.gpu $(GPU)

clean:
	rm -rf $(FUTURE_L1_HOME)
