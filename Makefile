# Every command installs what it needs into .venv. PYTHON must be 3.11 or newer.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v))) python3)
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
STUDY ?= config.yaml
BIN := .venv/bin
SNAKEMAKE = $(BIN)/snakemake --configfile $(STUDY) --cores $(CORES) --workflow-profile workflow/profiles/local
# After a failure: tables and figures of the runs that have finished, and an error that names the others.
PARTIAL = $(SNAKEMAKE) --config partial=yes
VALID = $(BIN)/sparsity-cliff runs $(STUDY) > /dev/null 2>&1
SWEEP = trap 'exit 130' INT; $(SNAKEMAKE) $(shell test -t 2 && echo --logger rich) || { $(VALID) && $(PARTIAL); }

.PHONY: sweep unlock figures report reference runs test test-large slurm check lint types format benchmark clean
.DEFAULT_GOAL := sweep

sweep: .venv/installed  ## run the study (STUDY=file) to its tables and figures
	$(SWEEP)
	@$(BIN)/sparsity-cliff claims $(STUDY)
	@echo "figures: results/*/figures, tables: results/*/tables"

unlock: .venv/installed  ## remove Snakemake's lock, after kill -9 or a power loss
	$(SNAKEMAKE) --unlock

figures: .venv/installed  ## make the figures, and whatever they need
	$(SNAKEMAKE) all

report: .venv/installed  ## one HTML page with every figure, its caption, and its provenance, also of an incomplete study
	$(SWEEP); status=$$?; $(VALID) && $(PARTIAL) --report results/report.html && exit $$status

reference: sweep  ## run the study and compare it with the reference results in the repository
	$(BIN)/sparsity-cliff reference $(STUDY)

runs: .venv/installed  ## print the run table and why each run would train
	$(BIN)/sparsity-cliff runs $(STUDY)

# three workers more than cores, because the tests with SLURM mostly wait
WORKERS ?= $(shell expr $(CORES) + 3)

test: .venv/installed slurm  ## run the whole suite, with linters and types, and print its coverage
	COVER=yes $(BIN)/pytest -n $(WORKERS) --dist worksteal
	$(BIN)/slipcover --branch --skip-covered --merge .slipcover/*.json --out .slipcover/all.json

test-large: .venv/installed slurm  ## run the suite's tests at full size, an hour or more
	$(BIN)/pytest -m large -n $(WORKERS) --dist worksteal

slurm:  ## install SLURM for its tests, if it is missing and needs no password
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

benchmark: .venv/installed  ## measure overheads (docs/benchmarks.md)
	$(BIN)/python benchmarks/overhead.py $(STUDY)
	$(BIN)/python benchmarks/dry_run.py

clean:  ## remove results and caches, but not the environment
	rm -rf results/*/ results/*.html .snakemake .pytest_cache .mypy_cache .ruff_cache .slipcover

.venv/installed: requirements.lock requirements-compiled.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python -m pip install --quiet --requirement requirements-compiled.lock \
		|| echo "warning: no PESQ, because its package needs a C compiler; STOI is the score of speech instead" >&2
	touch $@
