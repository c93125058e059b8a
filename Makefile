# `make run` and `make test` need Python >= 3.11 with venv, git and make; the environment is made on first use.
# Where packages come from is pip's own affair: its settings and PIP_* variables are left alone.

# Tried in this order, the first that works is taken. PYTHON=/path/to/python overrides.
PYTHON ?= python3.11 python3.12 python3.13 python3
VENV ?= .venv
ARGS ?=

BIN := $(abspath $(VENV))/bin
READY := $(VENV)/.installed
# What commands start in turn (dvc, python) must be the environment's too.
IN := PATH="$(BIN):$$PATH"
SAMPLE := data/brick
RESULTS := inspected/results.csv

.DEFAULT_GOAL := help
.PHONY: help environment run test lint audit format bench docs up clean clean-environment

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

environment: $(READY) ## Make the environment in .venv, once and again when the requirements change.

$(READY): pyproject.toml constraints.txt
	@command -v git >/dev/null || { echo "git is not installed; install it (for example: apt install git)" >&2; exit 1; }
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  for python in $(PYTHON); do \
	    if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      echo "environment: $$($$python --version) in $(VENV)"; \
	      exec $$python -m venv --clear $(VENV); \
	    fi; \
	  done; \
	  echo "no Python >= 3.11 with venv among: $(PYTHON)" >&2; \
	  echo "install one (for example: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi
	@echo "environment: installing; the first time this fetches about 2 GB and takes some minutes"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(READY) ## Sample data, the whole chain, a promoted model, an inspected folder.
	@test -d $(SAMPLE)/train/good || $(IN) kintsugi sample
	@$(IN) kintsugi run brick
	@$(MAKE) --no-print-directory $(RESULTS)
	@echo
	@echo "what was measured   artifacts/brick/evaluate/report.html (open it in a browser), numbers in metrics.json beside it"
	@echo "what was inspected  $(RESULTS), heat maps and masks beside it"
	@echo "runs and models     $(VENV)/bin/kintsugi up    then http://127.0.0.1:4200 (Prefect) and http://127.0.0.1:5000 (MLflow)"
	@echo "look at an image    $(VENV)/bin/kintsugi serve brick    then http://127.0.0.1:8000"
	@echo "what serves         $(VENV)/bin/kintsugi status"
	@echo "where it came from  $(VENV)/bin/kintsugi audit brick"

# Inspected again only when the model is another one. Most test images are defective: drift must not count them.
$(RESULTS): artifacts/brick/package/bundle.json
	@$(IN) kintsugi inspect brick $(SAMPLE)/test --out $(@D) --no-log
	@touch $@

artifacts/brick/package/bundle.json: ;

# Two at a time, each with one thread: most of a test's time is servers and programs starting, one after the other.
test: $(READY) ## Every test; ARGS="-k words" picks some, ARGS="-n 0" runs one after the other.
	@$(IN) OMP_NUM_THREADS=1 python -P -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY) ## Style, format, types, the Dockerfile, dependencies that agree, no secret in a commit.
	@$(IN) ruff check .
	@$(IN) ruff format --check .
	@$(IN) mypy
	@$(IN) hadolint infra/Dockerfile
	@$(BIN)/python -m pip check --disable-pip-version-check
	@$(IN) git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook

audit: ## Known vulnerabilities of the pinned packages; asks PyPI about each of them, so it needs the internet.
	@test -x .venv-audit/bin/pip-audit || { $(firstword $(PYTHON)) -m venv .venv-audit && .venv-audit/bin/pip install -q pip-audit; }
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

format: $(READY) ## Bring the format into order.
	@$(IN) ruff check --fix .
	@$(IN) ruff format .

bench: $(READY) ## Every benchmark, one after the other.
	@for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do \
	  echo "== $$script"; \
	  PYTHONPATH=. $(IN) python $$script $(ARGS) || exit 1; \
	done

docs: $(READY) ## Write the generated parts of docs/ anew.
	@$(IN) python docs/generate.py

up: $(READY) ## Prefect's and MLflow's pages, until Ctrl-C.
	@$(IN) kintsugi up

clean: ## Remove what tools leave behind; data, models, records and the environment stay.
	rm -rf build inspected *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find components flows tests docs benchmarks -name __pycache__ -prune -exec rm -rf {} +

clean-environment: ## Remove .venv.
	rm -rf $(VENV)
