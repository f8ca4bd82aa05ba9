# Every target is one command and one line of help; what they do is in the programs they call.
.DEFAULT_GOAL := help
.PHONY: help setup check test test-long demo matrix iso freeze bench clean
PYTHON := .venv/bin/python

help:   ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup:  ## Install what a Debian 12 machine lacks (needs root) and make .venv/bin/regraft
	@bash .ci/setup

check: setup  ## Lint, types, the laws of the architecture and of the documentation (seconds)
	@$(PYTHON) -m pytest -q tests/test_linters.py tests/test_architecture.py tests/test_docs.py

test: setup  ## All tests of a change: units, loop devices, frozen binary, virtual machines (needs root)
	@REGRAFT_LAB_PATIENCE=2 $(PYTHON) -m pytest --numprocesses 3 --dist loadgroup

test-long: setup  ## What make test leaves out for its length: more whole restores in virtual machines (needs root)
	@$(PYTHON) -m pytest -m long

demo: setup  ## Capture a running machine, restore it onto other hardware, prove it boots (needs root)
	@$(PYTHON) -m tests.lab demo

matrix: setup  ## Every source onto other machines, with its proof: build/matrix.json (hours, resumable; needs root)
	@$(PYTHON) -m tests.lab matrix

iso: setup  ## Build the live system that restores machines: build/regraft.iso (needs root)
	@$(PYTHON) -m pe_build iso --output build/regraft.iso

freeze: setup  ## Build the program for machines without Python: build/regraft/
	@$(PYTHON) -m pe_build freeze --output build/regraft

bench: setup  ## Measure speed, memory and sizes against the usual tools on the same data: build/bench.json (needs root)
	@$(PYTHON) -m tests.bench

clean:  ## Remove what was built here; downloads and built disks stay in ~/.cache/regraft
	@rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
