# Everything runs in .venv, which is made on first use. Where no torch is present, a CPU build of 2.13.0 is installed first.
.PHONY: demo test fuzz lint docs clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXAMPLES ?= 5000

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py --out demo

test: $(VENV)/ready
	$(BIN)/python -m pytest

# The long run of every test file that knows DODE_FUZZ, the number of examples of each property.
fuzz: $(VENV)/ready
	DODE_FUZZ=$(EXAMPLES) $(BIN)/python -m pytest $$(grep -l DODE_FUZZ tests/test_*.py)

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# No page is asked of another host, and a warning is an error; the library's own advertisement is not shown.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install torch==2.13.0
	$(BIN)/pip install -e ".[dev]"
	$(BIN)/pip install --no-deps k-diffusion==0.1.1.post1
	touch $@

clean:
	rm -rf $(VENV) demo site
