# `make` alone lists the targets. Everything runs in .venv; ops/setup makes it, and installs what Debian packages are missing.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# Loop devices, mounts and libvirt need root; sudo asks once.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E)
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE := 1

# The longest files first: whoever is done early finds short ones at the end.
quick := $(wildcard tests/system tests/integration tests/contract tests/unit)
long := $(wildcard tests/long)
# Two at a time: half of a test's time is waiting. The tests of a file stay together, and share what they start.
pytest = $(ROOT) $(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: help setup demo lint types format test test-all mutants bench package docs boards clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: Debian packages, .venv, bootpoint (root or sudo)
	@ops/setup

demo: setup ## protect a small bootable disk on this machine and start it from two boot points [DISK=path] [VIRT_TYPE=kvm]
	@$(ROOT) $(BIN)/bootpoint demo $(if $(DISK),--disk "$(DISK)") $(if $(VIRT_TYPE),--virt-type "$(VIRT_TYPE)")

lint: setup ## style, layering and types
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo
	@$(MAKE) --no-print-directory types

types: setup ## mypy, strict
	@$(BIN)/mypy

format: setup ## mend what ruff can mend
	@$(BIN)/ruff check --fix .

test: lint ## lint and the quick tests (at most 20 minutes) [PYTEST_ARGS=...]
	@$(pytest) $(quick)

test-all: setup ## every test, the long ones too [BOOTPOINT_SEED=n] [PYTEST_ARGS=...]
	@$(pytest) $(quick) $(long)

mutants: setup ## break the code on purpose, patch by patch: a named test must fail each time
	@$(ROOT) tests/mutants/run

bench: setup ## measure against nbdcopy and rsync; prints the table of docs/benchmarks.md
	@$(ROOT) $(BIN)/python -m tests.bench $(BENCH_ARGS)

package: setup ## Debian packages of agent and control plane into dist/, for machines without compiler and pip
	@ops/package/build dist

docs: setup ## generate docs/codes.md and docs/metrics.md
	@$(BIN)/python -m bootpoint_ops.code_page > docs/codes.md.new && mv docs/codes.md.new docs/codes.md
	@$(BIN)/python -m bootpoint_ops.metric_page > docs/metrics.md.new && mv docs/metrics.md.new docs/metrics.md

boards: setup ## generate the alert rules and the boards (ops/prometheus, ops/grafana)
	@$(BIN)/python -m bootpoint_ops.monitoring

clean: ## remove what can be made again (.venv and caches)
	@$(ROOT) rm -rf dist .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
