# make demo   one turn of the wheel, on two small models that come with it
# make test   the tests, as CI runs them
# Both make the environment first. The rest: make help
.DEFAULT_GOAL := help
.PHONY: help install announce demo test test-quick kill gate-races evidence evidence-paper check image serve ui clean bench-data bench-calls bench-gate

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Another strong model for the demo than params.yaml names: STRONG=smollm2 is the pair under Apache-2.0 alone.
STRONG ?=
ifeq ($(STRONG),smollm2)
override STRONG := smollm2-135m-instruct
endif
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/cowest/__init__.py)
# Further --set KEY=VALUE for the demo's turn.
SET ?=

# Nothing phones home, and threads do not spin while they wait (on a shared machine that makes two of them slower than one).
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = true
export BENTOML_DO_NOT_TRACK = True
export DVC_NO_ANALYTICS = 1
export VLLM_NO_USAGE_STATS = 1
export HF_HUB_DISABLE_TELEMETRY = 1
export OMP_WAIT_POLICY = PASSIVE
export PATH := $(abspath $(BIN)):$(PATH)

help:
	@echo "make demo         one turn of the wheel on two small models (STRONG=smollm2: Apache-2.0 models only)"
	@echo "make test         lint, types, import rules and all tests"
	@echo "make test-quick   unit tests that take no second each"
	@echo "make kill         a hosted stage killed at 20 moments: no answer lost, none paid for twice"
	@echo "make gate-races   promotions and rollbacks killed, and at once: always exactly one champion"
	@echo "make evidence     what alignment by collaborative feedback is worth, against its controls (hours)"
	@echo "make bench-calls  what calls take, beside other clients: docs/performance.md"
	@echo "make bench-gate   how often a gate's interval misses the truth, and what promotes by chance: docs/report.md"
	@echo "make bench-data   a million rows prepared and validated, beside a plain script: docs/performance-data.md"
	@echo "make install      only the environment, in $(VENV)"
	@echo "make ui           MLflow's pages of the turns, on http://127.0.0.1:5000"
	@echo "make serve        the champion and the strong model behind HTTP, on http://127.0.0.1:3000"
	@echo "make image        the CPU image that runs any stage (needs Docker)"
	@echo "make check        lint, types and import rules alone"
	@echo "make clean        what a turn made; keeps the environment, the models and the answered calls"

install: $(VENV)/.installed

# The Linux builds of torch on PyPI for x86_64 are CUDA builds. An index or a folder that has a CPU build
# lists it with +cpu, and pip prefers that. Only the list of versions is read.
define SAY_CUDA
test "$$(uname -sm)" != "Linux x86_64" || $(BIN)/python -c "import torch" 2>/dev/null \
	  || $(BIN)/python -m pip index versions torch 2>/dev/null | grep -qF "$$(sed -n 's/^torch==//p' constraints.txt)+cpu" \
	  || printf '%s\n' "pip will fetch a CUDA build of torch: several gigabytes, of use only with an NVIDIA GPU." \
	  "For the CPU build, stop now (Ctrl-C) and run: make $(or $(MAKECMDGOALS),install) TORCH_INDEX=https://download.pytorch.org/whl/cpu" >&2
endef

# torch first and pinned: with it there, nothing that follows takes another build of it.
# The CPU build is taken where pip's configuration offers it; elsewhere: make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(if $(TORCH_INDEX),,$(SAY_CUDA))
	$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[all,dev]'
	@touch $@

# Said until a turn was begun here. It stands before `install` in the demo's line, so that it is said first.
announce:
	@test -e mlflow.db || printf '%s\n' \
	  "make demo: one turn of the wheel, on two small models and an invented product handbook." \
	  "  1. the environment, in $(VENV), if it is not there: 3 GiB on disk, most of it downloaded" \
	  "  2. the models: about 350 MB, checked by SHA-256" \
	  "  3. the turn: train, draft, refine, score, align, evaluate, decide; no GPU, no key, no paid call" \
	  "It takes 20 to 60 minutes on two cores, by the CPU. Stop it when you like: the next run" \
	  "begins at the stage that was cut. Once the turn is decided, make demo takes seconds." ""

demo: announce install
	@cowest fetch $(if $(STRONG),$(sort smollm2-135m-instruct $(STRONG)))
	@cowest turn $(if $(STRONG),--set models.strong.model=$(STRONG)) $(foreach s,$(SET),--set $(s))
	@echo && cowest ask --any

test: check
	pytest tests

# What to run after every change: unit tests alone, the slow ones left out, property tests with fewer examples.
test-quick: install
	pytest -q tests/unit -m "not slow" --hypothesis-profile=quick

# A hosted stage killed at 20 seeded moments; `make test` has the short form.
kill: install
	COWEST_KILLS=20 pytest tests/e2e/test_kill.py -k hosted

# 20 seeded kills between two writes, and 50 rounds of two processes at once, on SQLite, PostgreSQL and through MLflow's server.
gate-races: install
	COWEST_KILLS=20 COWEST_RACES=50 pytest -s tests/e2e/test_races.py

# What alignment is worth, with its controls: hours on two cores; a run that is cut goes on where it was.
evidence: install
	cowest fetch
	nice python -m tests.bench.evidence

# The paper's own data sets with the models that come with CoWest: make evidence-paper DATA=folder (ifqa, medmcqa, prosocial in it).
evidence-paper: install
	cowest fetch
	nice python -m tests.bench.evidence.paper $(DATA)

bench-data: install
	python tests/bench/data.py

# What calls to an endpoint take, beside other clients: docs/performance.md. About ten minutes, of which a quiet machine is wanted.
bench-calls: install
	python -m tests.bench.calls

# How often a gate's interval misses the truth, and what promotes by chance: docs/report.md. About eight minutes of one core.
bench-gate: install
	nice python -m tests.bench.gate

check: install
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache
	python -m tests.shape

ui: install
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port 5000 --workers 1 --backend-store-uri sqlite:///mlflow.db

serve: install
	python -m cowest_serving serve

image:
	docker build -f infra/images/Dockerfile -t cowest-python:$(VERSION) $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) .

clean:
	rm -rf data/*.jsonl models reports turn.json looks.json
