# On a fresh machine with python3 and make: `make demo`, `make test`, `make docs`, `make bench`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test bench lint docs clean

demo: $(VENV)/.examples
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q --numprocesses auto --dist worksteal

bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/numerics.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir site
	LINEARDIFFUSION_SITE=site $(BIN)/python -m pytest -q tests/test_site.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "lineardiffusion needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)

# One mark for each set of extras, written last so that an interrupted installation starts again.
$(VENV)/.examples $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing lineardiffusion[$*] into $(VENV) (PyTorch included: this takes a few minutes the first time)"
	$(INSTALL) '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) runs site .mypy_cache .pytest_cache .ruff_cache .hypothesis
