# make demo: from a search to classified images. make test: the tests but for the slow ones, which make test-all runs too.
# make lint: style and types. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint clean

demo: $(VENV)/demo.stamp
	$(BIN)/nasnet-zoo demo --out demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports=silent tests/typed

$(VENV)/%.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist .mypy_cache
