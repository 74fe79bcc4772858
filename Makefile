# `make demo` and `make test` need Python 3.11 to 3.13 with pip, and nothing else.
PYTHON ?= python3
BIN := .venv/bin

# Where there is an NVIDIA GPU, the demo gets the JAX for it.
EXTRAS := demo$(shell nvidia-smi -L >/dev/null 2>&1 && echo ,gpu)

.PHONY: demo demo-text test lint types docs lock clean

demo: .venv/.demo
	$(BIN)/python -m experiments.rum --out runs/demo

# Most of a test's time is compilation: with fewer of XLA's optimizations the first run takes half as
# long. What is claimed about last bits is tested with all of them, in the second.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

demo-text: .venv/.demo
	$(BIN)/python -m experiments.rum_sequences --out runs/sequences

test: .venv/.test
	JAXMUL_QUICK_TESTS=1 $(PYTEST) -m "not slow and not rounding"
	$(PYTEST) -m "rounding and not slow" tests

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.test
	$(BIN)/pyright

# The first page is docs/_build/html/index.html, which leads to docs/index.html.
docs: .venv/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs . docs/_build/html

.venv/.made:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "jaxmul needs Python 3.11 to 3.13; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.made pyproject.toml requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[$(EXTRAS)]'
	touch $@

.venv/.test: .venv/.made pyproject.toml requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[test]'
	touch $@ .venv/.demo

.venv/.docs: .venv/.made pyproject.toml requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[docs]'
	touch $@

# Newest versions that resolve on Python 3.11 to 3.13.
lock: .venv/.made
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet pyproject.toml --universal --extra test --extra bench --extra docs --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links --upgrade -o requirements.lock

clean:
	rm -rf .venv runs docs/_build
