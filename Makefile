# Everything from a fresh clone: the first target that needs .venv makes it.
# Needs make and a Python 3.11 or newer with its venv module; no compiler.

PYTHON ?= python3
# Of `make soak`.
MINUTES ?= 30

# What the ranks of one machine share; a value from outside wins.
export OMP_NUM_THREADS ?= 1
# Nothing is downloaded after the installation, and nothing reports home.
export HF_HUB_OFFLINE = 1
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = true

PYTEST := .venv/bin/python -m pytest -q -m 'not slow and not gpu'
# Half of the tests by their time.
HALF := tests/unit tests/distributed tests/security tests/browser

INSTALLED := .venv/installed
BENCH_INSTALLED := .venv/bench-installed

.PHONY: help demo test lint bench soak gpu-check clean

help:
	@echo 'make demo    corpus, both stages, decoding, scores, one video translated'
	@echo 'make test    lint, then all tests but the slow ones and those for a GPU'
	@echo 'make lint    ruff and mypy'
	@echo 'make bench   what the toolkit costs beside plainer ways, in ratios, with a report that can be compared'
	@echo 'make soak    runs stopped at random for MINUTES=30, and compared with one that was not'
	@echo 'make gpu-check  decoding, both stages, speed and memory on the first GPU'
	@echo 'make clean   remove .venv and caches; runs and data stay'

demo: $(INSTALLED)
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python tools/run_demo.py

# Two at once: most tests wait for one process to start.
test: lint
	@export PATH="$(CURDIR)/.venv/bin:$$PATH"; unset DS_ACCELERATOR; \
	setsid $(PYTEST) $(HALF) & half=$$!; trap 'kill -- -$$half; exit 130' INT TERM; \
	$(PYTEST) tests $(addprefix --ignore=,$(HALF)); code=$$?; \
	wait $$half && exit $$code

lint: $(INSTALLED)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy --strict fla

bench: $(BENCH_INSTALLED)
	@DS_ACCELERATOR=cpu .venv/bin/python -m tests.benchmarks

soak: $(INSTALLED)
	@env -u DS_ACCELERATOR PATH="$(CURDIR)/.venv/bin:$$PATH" \
		.venv/bin/python -m tests.faults.soak --minutes $(MINUTES)

# The table first; then the tests that need a GPU.
gpu-check: $(INSTALLED)
	@env -u DS_ACCELERATOR PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m tests.gpu
	@env -u DS_ACCELERATOR PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m pytest -q -m gpu tests

clean:
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find fla launchers tools tests -name __pycache__ -type d -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@command -v '$(PYTHON)' > /dev/null || { \
		echo '$(PYTHON): no such program. Install Python 3.11 or newer, or name one: make PYTHON=python3.12' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo '$(PYTHON) is older than Python 3.11. Install a newer one and name it: make PYTHON=python3.12' >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2> /dev/null || { \
		echo '$(PYTHON) has no venv module. Install it; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'Installing into .venv, once: some minutes, about 3 GB to download, 7 GB on disk.'
	@'$(PYTHON)' -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	@echo 'Installing what the data path is compared with into .venv, once.'
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
