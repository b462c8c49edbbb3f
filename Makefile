# Each target sets up what it needs first, in $(VENV); `make` alone lists the targets.
# ARGS are further words for the program behind a target: make test ARGS="tests/core -x", make run ARGS="--images 5000".
# PYTHON names the interpreter, a name on PATH or a path; each has an environment of its own: make test PYTHON=python3.14.
# JOBS is over how many processes the tests are spread, as many as there are cores and 4 at most; 0 keeps them in one, for a debugger.

VENV ?= .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
JOBS ?= auto
bin := $(VENV)/bin
pip := $(bin)/python -m pip --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test test-unit lint check bench hops soak conformance format clean force

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## start the demo: the proxy before a built-in IMS look-alike
	@$(bin)/python -m proxy demo $(ARGS)

test: $(VENV)/.installed-dev ## run all the tests
	@tests/provision redis || true  # the tests that need it fail and name it; the others still run
	@tests/provision browser || true
	@tests/provision node || true
	$(bin)/python -m pytest --numprocesses=$(JOBS) --maxprocesses=4 --dist=loadgroup $(ARGS)

test-unit: $(VENV)/.installed-dev ## run the unit tests alone, in about a minute
	$(bin)/python -m pytest -m unit --numprocesses=$(JOBS) --maxprocesses=4 --dist=loadgroup $(ARGS)

lint: $(VENV)/.installed-dev ## check style, types and the direction of imports
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

check: lint test ## lint, then test

bench: $(VENV)/.installed-dev ## measure hits per second and what a miss costs
	$(bin)/python -m tests.bench $(ARGS)

hops: $(VENV)/.installed-dev ## count how many modules a request enters
	@tests/provision redis || true
	$(bin)/python -m tests.hops $(ARGS)

soak: $(VENV)/.installed-dev ## press replicas, carry 4 GB and break off thousands of exchanges: what the tests do, for longer
	@tests/provision redis || true
	@tests/provision bench || true
	IMS_TEST_PRESSURE_S=30 $(bin)/python -m pytest tests/integration/rate_limit/test_pressure.py $(ARGS)
	IMS_PROXY_TEST_EXAMPLES=300 $(bin)/python -m pytest tests/integration/laws $(ARGS)
	$(bin)/python -m pytest tests/soak --override-ini=python_files='soak_*.py' --override-ini=python_functions='soak_*' $(ARGS)

conformance: $(VENV)/.installed-dev ## run a public suite of cache tests and write docs/conformance.md
	@tests/provision conformance
	$(bin)/python -m tests.conformance $(ARGS)

format: $(VENV)/.installed-dev ## put the code into its standard form
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

clean: ## remove what these targets made
	rm -rf $(VENV) .venv .venv-* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +

# To run takes the package alone; to work on it takes the tools too.
$(VENV)/.installed: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "installing the package into $(VENV)"
	@$(pip) install --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "installing the package and its development tools into $(VENV)"
	@$(pip) install --editable '.[dev]'
	@touch $(VENV)/.installed $@

# An environment is made anew whose interpreter has gone (the system moved on to another Python), or is not the one that
# PYTHON names. This is looked at each time, and what depends on it is made anew only if it was.
$(VENV)/pyvenv.cfg: force
	@made=$$($(bin)/python -c 'import os, sys; print(os.path.realpath(sys._base_executable))' 2>/dev/null); \
	if [ -n "$$made" ] && [ -z "$(PYTHON)" ]; then exit; fi; \
	python=$$(tests/provision python) || exit; \
	if [ "$$made" = "$$python" ]; then exit; fi; \
	echo "making $(VENV) with $$python" && "$$python" -m venv --clear $(VENV)
