# Each target does its own set-up, in .venv (gpu where there is one: in .venv-gpu); they can be run in any order, alone or together.

PYTHON ?= python3
BIN := .venv/bin
TRAIN_LOG := runs/demo/train.log
# Two processes, each with whole files: most tests keep one core busy. Threads of PyTorch's would fight for it.
# In the order of tests/conftest.py: by itself xdist leaves files of few tests, which are the longest, for the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-full test-install test-label-studio lint docs bench gpu train-demo train-photo clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# Installed last by venv, so that an interrupted set-up is done again.
$(BIN)/pip:
	$(PYTHON) -m venv .venv

# The stamp .stamp-EXTRAS stands for `pip install .[EXTRAS]`.
.venv/.stamp-%: pyproject.toml constraints-cpu.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --constraint constraints-cpu.txt --editable '.[$*]'
	@touch $@

# Triton's server with the NumPy that it reads arrays of, for its tests alone; they are skipped where it cannot be had.
.venv/.stamp-triton: .venv/.stamp-dev
	-$(BIN)/python -m pip install --quiet --no-deps --target .venv/triton --upgrade \
		nvidia-pytriton==0.7.0 tritonclient==2.73.0 numpy==1.26.4 && touch $@

demo: .venv/.stamp-cpu ## refine the sample masks; contact sheet and IoU table in demo-out/
	$(BIN)/segrefine demo --output demo-out

test: lint .venv/.stamp-triton ## lint, types and the quick tests
	$(PYTEST)

test-all: lint .venv/.stamp-triton ## the same with the slow tests, and more examples with new seeds
	$(PYTEST) -m 'not full_size' --timeout 7200 --hypothesis-profile search

test-full: .venv/.stamp-dev ## models of full size with random weights: an hour, 40 GB of disk
	$(BIN)/python -m pytest -m full_size --timeout 0 tests/full_size

test-install: .venv/.stamp-dev ## every extra alone from a built wheel, and the lowest versions; CASES="cpu lowest" chooses
	$(BIN)/python -m tests.install.extras $(CASES)

# In an environment of its own: label-studio-ml 1 pins Flask 1 and Jinja2 3.0.
.venv-label-studio/.stamp: pyproject.toml
	$(PYTHON) -m venv .venv-label-studio
	.venv-label-studio/bin/python -m pip install --quiet --editable '.[cpu,label-studio]' label-studio-sdk pytest pytest-timeout hypothesis httpx
	@touch $@

test-label-studio: .venv-label-studio/.stamp ## the backend for Label Studio in the real server of label-studio-ml
	.venv-label-studio/bin/python -m pytest --noconftest tests/integrations/test_label_studio.py

lint: .venv/.stamp-dev ## ruff, mypy, and the length of sentences in the documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m documentation.prose --quiet

docs: .venv/.stamp-dev,docs ## run the notebook, and build the site of the documentation into build/site
	$(BIN)/python -m documentation.notebook
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: .venv/.stamp-cpu,bench ## speed and quality beside the peers, into benchmarks/results/
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.gs_latency
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.gs_quality
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.scaling --sizes demo
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m benchmarks.label_maps
	$(BIN)/python -m benchmarks.guard
	$(BIN)/python -m benchmarks.small_objects
	$(BIN)/python -m benchmarks.batch
	$(BIN)/python -m benchmarks.batch_kills
	$(BIN)/python -m benchmarks.batch_costs

# With a driver an environment of its own: ONNX Runtime for the CPU and that for GPUs overwrite each other's files.
GPU_ENV := $(if $(shell command -v nvidia-smi),.venv-gpu,.venv)
GPU_STAMP := $(if $(filter .venv-gpu,$(GPU_ENV)),.venv-gpu/.stamp,.venv/.stamp-dev)

.venv-gpu/.stamp: pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --editable '.[gpu]'
	@touch $@

# Every part runs, whatever became of those before it; the target fails at the end where one did.
gpu: $(GPU_STAMP) ## kernels and engines on a GPU, into benchmarks/results/; says so where there is none
	@failed=; for part in "benchmarks.gpu.smoke" "pytest tests/engines/test_kernels.py tests/engines/test_launches.py" \
		"benchmarks.gpu.kernels" "benchmarks.gpu.engines --full-size"; do \
		echo "python -m $$part"; $(GPU_ENV)/bin/python -m $$part || failed="$$failed$${failed:+, }$$part"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed: $$failed" >&2; exit 1; fi

train-demo: .venv/.stamp-train ## train the demo model in the background; resumes where it stopped
	@mkdir -p $(dir $(TRAIN_LOG))
	@nohup $(BIN)/python -m training.demo.train >> $(TRAIN_LOG) 2>&1 & \
	echo "training in the background as process $$!; follow it with: tail -f $(TRAIN_LOG)"

PHOTOS ?= photos
PHOTO_RUN ?= runs/photo

train-photo: .venv/.stamp-train ## train `photo` on the photographs in PHOTOS in the background; resumes where it stopped
	@mkdir -p $(PHOTO_RUN)
	@nohup $(BIN)/python -m training.photos.train $(PHOTOS) --run $(PHOTO_RUN) >> $(PHOTO_RUN)/train.log 2>&1 & \
	echo "training in the background as process $$!; follow it with: tail -f $(PHOTO_RUN)/train.log"

clean: ## remove the environment and what the tools left
	rm -rf .venv .venv-gpu .venv-label-studio demo-out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
