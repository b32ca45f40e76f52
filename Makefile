# make help    lists all targets

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.made-from-requirements

.DEFAULT_GOAL := help
.PHONY: help book test refresh check-notebooks lint lab serve zip screenshots browser clean

help:  ## this list
	@grep -E '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' \
	  | awk -F'|' '{ printf "  make %-16s %s\n", $$1, $$2 }'

# The environment: made once, made again when a version changes.
$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "No program '$(PYTHON)'. Install Python 3.11 or later, or type: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "'$(PYTHON)' is $$($(PYTHON) -V 2>&1); the book needs 3.11 or later. Type: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no module venv. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

book: $(STAMP)  ## build the site; make book STORE=path/to/store.zarr.zip builds it about that store
	@$(BIN)/python tools/build_book.py $(if $(STORE),--store '$(STORE)')

test: $(STAMP)  ## run every test
	@sh tools/ensure_browser.sh --only-in-ci
	@# Two files at a time; the cells of one notebook share a kernel, so a file stays with one process.
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)

refresh: $(STAMP)  ## execute every notebook again and store its outputs
	@$(BIN)/python tools/execute.py

check-notebooks: $(STAMP)  ## say whether refresh would change anything
	@$(BIN)/python tools/execute.py --check

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check agn_helpers tests tools _ext
	$(BIN)/mypy

lab: $(STAMP)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks

serve: book  ## build the site and serve it on this machine
	@echo "http://127.0.0.1:8000/   (Ctrl+C ends it)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

zip: book  ## the site in one file, _build/agn-training-set-book.zip, to read without a network
	@$(BIN)/python tools/zip_site.py

screenshots: book  ## pictures of every page in _build/screenshots
	@$(BIN)/python tools/screenshots.py

browser:  ## install Chromium, which the browser tests need
	@sh tools/ensure_browser.sh

clean:  ## remove what was built, but not the environment
	rm -rf _build
