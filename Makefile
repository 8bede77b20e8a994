# Thin over `python -m infra`; each target first installs what is missing into .venv.
PYTHON ?= python3
RUN := .venv/bin/python -m
.DEFAULT_GOAL := help
.PHONY: help install demo dev test check format lock bench package

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

install:
	@$(PYTHON) infra/install.py

demo: install  ## bring the local stack up, ingest the sample documents, stream cited answers, check all of it
	@$(RUN) infra demo

dev: install  ## keep the local stack up, reloading on change, until Ctrl-C
	@$(RUN) infra dev

test: install  ## run every test against real Postgres, Redis, S3, SQS and models
	@$(RUN) pytest

check: install  ## lint, formatting, types, locks
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) infra check

format: install  ## mend what the linter can
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

lock: install  ## resolve every function's requirements anew
	@$(RUN) infra lock

bench: install  ## measure the budgets; one table, and a plot in .local/bench/
	@$(RUN) infra bench

package: install  ## build each function's zip into .build/ and report its size
	@$(RUN) infra package $(FUNCTION)
