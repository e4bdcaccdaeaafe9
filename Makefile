# Two commands: `make demo` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: test test-slow demo lint clean

$(VENV)/.installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -q -n 3 --dist worksteal
	$(MAKE) demo

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 3 --dist worksteal -m slow

demo: $(VENV)/.installed
	$(BIN)/python examples/train_image_classifier.py --out=runs/demo

clean:
	rm -rf $(VENV) runs build *.egg-info
