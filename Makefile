# Everything starts here: `make` lists the targets. On a fresh machine `make quickstart` or `make test` is enough.
BIN := .venv/bin

.PHONY: help setup setup-tests quickstart test test-long fuzz lint audit format tables bundle lock clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## system packages, .venv with pinned requirements; quick the second time: [PYTHON=...] [TORCH=cpu]
	@./setup.sh

setup-tests: ## what only the checks and tests need besides; they begin with it
	@./setup.sh tests

quickstart: setup ## the whole way on a small data set: images, trainings, records, report; 10 to 20 minutes on 2 cores
	@$(BIN)/deeper run quickstart --prepare --report

test: lint ## static checks and all tests but the long ones
	@$(BIN)/pytest -m "not long" -n 3 --no-loadscope-reorder --durations 30

test-long: ## the tests that take minutes
	@./setup.sh long
	@$(BIN)/pytest -m long

fuzz: setup-tests ## the decoder in C on mutated JPEGs, on one core for ten minutes: [MINUTES=10]; needs clang
	@$(BIN)/python tests/fuzz/fuzz_decoder.py $(if $(MINUTES),--minutes $(MINUTES))

lint: setup-tests ## ruff and mypy
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary

audit: setup-tests ## bandit on the code and pip-audit on the packages, judged in docs/security.md
	@$(BIN)/python .ci/audit.py

format: setup-tests ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

tables: ## make the documents' tables again from results/ and from the network's cost
	@$(BIN)/python -m analysis.documents
	@$(BIN)/python -m bench.suites.gpu.fusions

# PYTHON names the interpreter of a set-up, and here the version that the other machine has.
bundle: ## the suite for a machine without network and root: [PYTHON=3.12] [WITHOUT=torch,torchvision] [PART=60M]
	@env -u PYTHON ./setup.sh
	@$(BIN)/python -m slurm.bundle $(if $(PYTHON),--python $(PYTHON)) $(if $(WITHOUT),--without $(WITHOUT)) \
		$(if $(PART),--part $(PART)) $(if $(OUT),--out "$(OUT)")

lock: ## pin and hash what requirements*.in ask for (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command 'make lock' requirements.in --output-file requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command 'make lock' requirements-dev.in --output-file requirements-dev.txt
	for name in tools carried; do \
		uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--no-emit-find-links --custom-compile-command 'make lock' slurm/bundle/$$name.in \
			--output-file slurm/bundle/$$name.txt || exit 1; \
	done

clean: ## remove .venv and caches; never records, reports or data
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
