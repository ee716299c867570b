# Everything happens in .venv with the exact versions of constraints.txt. `make` alone lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# Each stamp stands for one installed set of extras; it ages when the versions or the dependencies change.
LAB := .venv/.lab-installed
TEST := .venv/.test-installed
PEERS := .venv-peers/.installed
TRACKERS := .venv-trackers/.installed
BENCH := .venv-bench/.installed
DOCS := .venv-docs/.installed
BINDER := .venv-binder/.installed
FRONTENDS := .venv-nox/.installed
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo lab test pages kills stories peers bench docs binder frontends trackers office pictures lint programs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(LAB) ## run the quickstart notebook on the sandbox: no key, no cost, no network
	@$(BIN)/python notebooks/run_demo.py

lab: $(LAB) ## open the quickstart notebook in JupyterLab
	$(BIN)/python -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/quickstart.ipynb

test: $(TEST) programs lint ## lint, check types and run the tests (ARGS="-k name" is passed to pytest)
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

pages: $(TEST) programs ## the panel in every size, theme and front end, and with axe-core (minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/pages/*.py $(ARGS)

kills: $(TEST) programs ## kill 2,000 kernels and programs at work, and check what is left (ten minutes or so)
	$(BIN)/python -m tests.kills --kills 2000 $(ARGS)

stories: $(TEST) ## 500 made-up stories of faults, kills and restarts in place of a few
	STORIES=500 $(BIN)/python -m pytest --timeout 0 tests/promises/test_story.py $(ARGS)

peers: $(PEERS) ## count how often other clients send one paid request (a few minutes; writes build/peers)
	.venv-peers/bin/python -m tests.peers $(ARGS)

trackers: $(TEST) $(TRACKERS) ## test the exports to MLflow and Weights & Biases, with their own libraries
	$(BIN)/python -m pytest tests/trackers/libraries.py $(ARGS)

bench: $(BENCH) ## measure this package beside others (a quarter of an hour; writes build/bench; ARGS="polling weight")
	.venv-bench/bin/python -m tests.benchmarks $(ARGS)

docs: $(DOCS) ## build the reference from the docstrings into build/site (a warning is an error)
	.venv-docs/bin/python -m sphinx -q -W --keep-going -b html -d build/docs-cache .docs build/site
	@echo "build/site/index.html"

binder: $(TEST) $(BINDER) ## install what Binder does, run its scripts, have repo2docker read the folder (minutes)
	$(BIN)/python -m pytest tests/binder/image.py tests/binder/tour.py $(ARGS)

frontends: $(FRONTENDS) programs ## try other front ends, and the oldest and newest versions (a while; ARGS="-s marimo")
	.venv-nox/bin/nox -f tests/frontends/noxfile.py $(ARGS)

office: $(TEST) ## open the CSV for spreadsheets in LibreOffice (installs it)
	@sh tests/install.sh office
	$(BIN)/python -m pytest tests/office/spreadsheet.py $(ARGS)

pictures: $(TEST) programs ## make the README's pictures anew, from the sandbox
	$(BIN)/python -m pytest -q tests/pages/cells.py tests/pages/panel.py -k the_picture_of_the_readme
	cp tests/screenshots/readme.png notebooks/quickstart.png
	cp tests/screenshots/readme-panel.png notebooks/panel.png

lint: $(TEST) ## ruff, mypy, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

programs: # browser tests drive Chromium and axe-core, the ledger's a PostgreSQL server, the kill harness strace, completion shells
	@sh tests/install.sh chromium axe postgres strace zsh fish

clean: ## remove .venv, caches, build and demo output (never apixo-runs: those are your pictures)
	rm -rf .venv .venv-* .mypy_cache .nox .pytest_cache .ruff_cache .hypothesis build dist demo-output tests/screenshots tests/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "apixo_nb needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

$(LAB): .venv/.created pyproject.toml constraints.txt
	$(INSTALL) -e '.[lab]'
	@touch $@

# Of their own: what other clients depend on is not for our tests.
$(PEERS): pyproject.toml constraints.txt tests/peers/constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -c tests/peers/constraints.txt -e . comfy-sdk fal-client openai replicate
	@touch $@

# Of their own, as they bring as much again as all other tests need.
$(TRACKERS): pyproject.toml constraints.txt tests/trackers/constraints.txt
	$(PYTHON) -m venv .venv-trackers
	.venv-trackers/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -c tests/trackers/constraints.txt -e '.[mlflow,wandb]'
	@touch $@

# Of its own: it brings Docker's client library.
$(BINDER): constraints.txt tests/binder/constraints.txt
	$(PYTHON) -m venv .venv-binder
	.venv-binder/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -c tests/binder/constraints.txt jupyter-repo2docker
	@touch $@

# Of its own: it makes an environment for each session.
$(FRONTENDS): tests/frontends/constraints.txt
	$(PYTHON) -m venv .venv-nox
	.venv-nox/bin/python -m pip install --quiet --disable-pip-version-check -c tests/frontends/constraints.txt nox uv
	@touch $@

# Of their own: what builds pages is not for our tests.
$(DOCS): pyproject.toml constraints.txt .docs/constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -c .docs/constraints.txt -e . furo sphinx
	@touch $@

# Of their own, with all that the benchmarks compare this package with.
$(BENCH): pyproject.toml constraints.txt tests/peers/constraints.txt tests/trackers/constraints.txt tests/benchmarks/constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -c tests/peers/constraints.txt -c tests/trackers/constraints.txt -c tests/benchmarks/constraints.txt \
		-e '.[lab,mlflow,parquet,wandb]' aiohttp fal-client httpx jupyter-ai-magics jupysql replicate requests
	@touch $@

# The test set contains the lab set, so both stamps are fresh afterwards.
$(TEST): .venv/.created pyproject.toml constraints.txt
	$(INSTALL) -e '.[lab,test]'
	@touch $(LAB) $@
