# make demo: from a search to classified images. make test: the tests but for the slow ones, which make test-all runs too.
# make lint: style and types. make package: sdist and wheel. make doctor: what works on this machine. make docs: the
# documentation site, in site/.
# Each sets up what it needs in .venv. make test-lowest and make test-pre have environments of their own, with the
# lowest versions of all dependencies and with pre-releases.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# A crash ends the run, which then names the test. (With --dist loadfile, xdist cannot replace the process.)
PYTEST := -m pytest -n 2 --dist loadfile --max-worker-restart 0 --durations 15

.PHONY: demo test test-all test-lowest test-pre lint package check-tag docs doctor pre-commit clean

demo: $(VENV)/demo.stamp
	$(BIN)/nasnet-zoo demo --out demo

test: lint
	$(BIN)/python $(PYTEST) -m "not slow"

test-all: lint
	$(BIN)/python $(PYTEST)

# The lowest versions that pyproject.toml allows, without the extras that few need and what only tests compare with.
test-lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
		--editable '.[digits,keras,search,train]' 'torchvision>=0.22'  # that of the lowest torch; timm needs some version
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python \
		pytest pytest-timeout pytest-xdist hypothesis jsonschema
	.venv-lowest/bin/python $(PYTEST) -m "not slow"

test-pre:
	test -x .venv-pre/bin/python || $(PYTHON) -m venv .venv-pre
	.venv-pre/bin/python -m pip install --quiet --disable-pip-version-check --pre --upgrade --editable '.[test]'
	.venv-pre/bin/python $(PYTEST) -m "not slow"

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports=silent tests/typed

pre-commit: $(VENV)/test.stamp
	$(BIN)/pre-commit install

package: $(VENV)/package.stamp
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# Does the tag that is released name the version of the package, and has the changelog a date for it?
# make check-tag TAG=v0.2.0
check-tag:
	grep -qx "__version__ = '$(TAG:v%=%)'" nasnet_zoo/version.py
	grep -q "^## \[$(TAG:v%=%)\] - [0-9]" CHANGELOG.md

docs: $(VENV)/docs.stamp
	$(BIN)/mkdocs build

doctor: $(VENV)/demo.stamp
	$(BIN)/nasnet-zoo doctor

$(VENV)/%.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-pre demo build dist site .mypy_cache
