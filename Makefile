# Everything happens in .venv with the exact versions of constraints.txt. `make` alone lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# Each stamp stands for one installed set of extras; it ages when the versions or the dependencies change.
LAB := .venv/.lab-installed
TEST := .venv/.test-installed
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo lab test picture lint chromium postgres clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(LAB) ## run the quickstart notebook on the sandbox: no key, no cost, no network
	@$(BIN)/python notebooks/run_demo.py

lab: $(LAB) ## open the quickstart notebook in JupyterLab
	$(BIN)/python -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/quickstart.ipynb

test: $(TEST) chromium postgres lint ## lint, check types and run all tests (ARGS="-k name" is passed to pytest)
	$(BIN)/python -m pytest $(ARGS)

picture: $(TEST) chromium ## make the README's picture anew, from the sandbox
	$(BIN)/python -m pytest -q tests/test_lab.py -k the_picture_of_the_readme
	cp tests/screenshots/readme.png notebooks/quickstart.png

lint: $(TEST) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

postgres: # the ledger's tests start a throwaway server
	@sh tests/install-postgres.sh

chromium: # the browser tests drive a real JupyterLab
	@sh tests/install-chromium.sh

clean: ## remove .venv, caches, build and demo output (never apixo-runs: those are your pictures)
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo-output tests/screenshots
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "apixo_nb needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

$(LAB): .venv/.created pyproject.toml constraints.txt
	$(INSTALL) -e '.[lab]'
	@touch $@

# The test set contains the lab set, so both stamps are fresh afterwards.
$(TEST): .venv/.created pyproject.toml constraints.txt
	$(INSTALL) -e '.[lab,test]'
	@touch $(LAB) $@
