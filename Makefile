# `make demo` and `make test` need only Python 3.11 to 3.13 and a C compiler.
PYTHON ?= python3
BIN := .venv/bin

# If set, each of the demo's thirty processes would compile torch, Ray and MLflow to bytecode again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint bench clean

# Stamp files mark complete installations. The demo does not need the development tools, so it has its own.
INSTALL := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c infra/constraints.txt
.venv/.app: pyproject.toml infra/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; run: make PYTHON=python3.12 …" >&2; exit 2; }
	@command -v cc >/dev/null || \
	  { echo "error: pesq is built from source and needs a C compiler; on Debian: apt-get install build-essential python3-dev" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(INSTALL) -e '.[metrics,app]'
	@touch $@

.venv: .venv/.installed
.venv/.installed: .venv/.app
	$(INSTALL) -e '.[metrics,dnsmos,phones,app,dev]'
	@touch $@

# With recordings in RWSA_DATA the demo; without, the same on recordings that it fetches. Again, it does nothing new.
RWSA_DATA ?= ../shared/data
demo: .venv/.app
	$(BIN)/python -m pipelines.run pipelines/workflows/$(if $(wildcard $(RWSA_DATA)/libri),demo,starter).yaml

# Two runs of pytest side by side: tests of the cluster, one at a time, wait more than they compute, and the others, at
# a lower priority, take what they leave (in `test-all` on one process, since there the first take as long). Both go on
# if one fails, and one summary ends them (tests/README.md). Here make runs them, since a shell starts background
# processes that ignore Ctrl-C.
define pytest_twice
@mkdir -p outputs/tests && rm -f outputs/tests/make-$@.jsonl; failed=0; \
$(MAKE) --no-print-directory --jobs=2 --keep-going .run-others .run-cluster \
  SUITE=$@ OTHERS="$(1)" CLUSTER="$(2)" OPTIONS="$(4)" PROCESSES=$(3) || failed=1; \
$(BIN)/python -m tests.suite_times make-$@; exit $$failed
endef

RUN = $(BIN)/pytest -q --times outputs/tests/make-$(SUITE).jsonl
.PHONY: .run-others .run-cluster
.run-others:
	@nice -n 5 $(RUN) -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(OPTIONS) -m "$(OTHERS)"
.run-cluster:
	@$(RUN) -m "$(CLUSTER)" tests/cluster

test: .venv
	$(call pytest_twice,not cluster and not full,cluster and not full,2)

test-all: .venv
	$(call pytest_twice,not cluster,cluster,1,--inputs 200)

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The same setting as the commands use (rwsa/process.py).
bench: export OMP_WAIT_POLICY = PASSIVE
bench: .venv
	$(BIN)/python -m tests.benchmarks.bench_scan
	$(BIN)/python -m tests.benchmarks.bench_model
	$(BIN)/python -m tests.benchmarks.bench_enhance
	$(BIN)/python -m tests.benchmarks.bench_scoring
	$(BIN)/python -m tests.benchmarks.bench_reading
	$(BIN)/python -m tests.benchmarks.bench_index
	$(BIN)/python -m tests.benchmarks.bench_ranks
	$(BIN)/python -m tests.benchmarks.step_counts
	$(BIN)/python -m tests.benchmarks.bench_rendering
	$(BIN)/python -m tests.benchmarks.bench_training
	$(BIN)/python -m tests.benchmarks.bench_evaluation
	$(BIN)/python -m tests.benchmarks.bench_sweep
	$(BIN)/python -m tests.benchmarks.bench_cluster

clean:
	rm -rf .venv outputs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
