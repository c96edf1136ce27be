# Every command installs what it needs into .venv. PYTHON must be 3.11 or newer.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v))) python3)
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
STUDY ?= config.yaml
BIN := .venv/bin
SNAKEMAKE = $(BIN)/snakemake --configfile $(STUDY) --cores $(CORES) --workflow-profile workflow/profiles/local

.PHONY: sweep unlock figures report runs test test-large slurm check lint types format benchmark clean
.DEFAULT_GOAL := sweep

sweep: .venv/installed  ## run the study (STUDY=file) to its tables and figures
	$(SNAKEMAKE) $(shell test -t 2 && echo --logger rich)
	@echo "figures: results/*/figures, tables: results/*/tables"

unlock: .venv/installed  ## after kill -9 of Snakemake or a power loss: take its lock away
	$(SNAKEMAKE) --unlock

figures: .venv/installed  ## the figures, from the tables that are there or after what they lack
	$(SNAKEMAKE) all

report: sweep  ## one HTML page with every figure, its caption and its provenance
	$(SNAKEMAKE) --report results/report.html

runs: .venv/installed  ## the run table, and why each run would train
	$(BIN)/sparsity-cliff runs $(STUDY)

# one worker more than cores: the tests with SLURM mostly wait
WORKERS ?= $(shell expr $(CORES) + 1)

test: .venv/installed slurm  ## the whole suite, with linters and types, and what it covers
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-large: .venv/installed slurm  ## what the whole suite has in small, in large: an hour or more
	$(BIN)/pytest -m large -n $(CORES) --dist worksteal

slurm:  ## a SLURM for its tests, where there is none and it can be had without a question
	@tests/install_slurm.sh

check: lint types test

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

types: .venv/installed
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

benchmark: .venv/installed  ## overheads, as ratios (docs/benchmarks.md)
	$(BIN)/python benchmarks/overhead.py $(STUDY)
	$(BIN)/python benchmarks/dry_run.py

clean:  ## results and caches; the environment stays
	rm -rf results/*/ results/*.html .snakemake .pytest_cache .mypy_cache .ruff_cache .coverage*

.venv/installed: requirements.lock requirements-compiled.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python -m pip install --quiet --requirement requirements-compiled.lock \
		|| echo "warning: no PESQ, since its package needs a C compiler; speech is judged by STOI instead" >&2
	touch $@
