# make: the whole pipeline on the embedded data set.   make help: the other targets.

SHELL := /bin/bash -o pipefail
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A run must not depend on packages that the user has installed outside the environment.
export PYTHONNOUSERSITE := 1
# Processes of the tests: one more than cores, since tests of pipelines and signals wait for other processes.
WORKERS = $(shell $(BIN)/python -c "from tumorboard.base.cores import available_cores; print(min(8, available_cores() + 1))")

.PHONY: all env test test-slow docs docs-test lint format lock plots control results clean help

# Images this small train faster side by side than one after the other with a thread per core; and the scores then do not
# depend on the number of cores (docs/threads.md).
all: env ## make the environment and run the pipeline: models, vote, metrics, plots, report
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} tumorboard run
	@echo; echo "The report: $(CURDIR)/report/index.html"

env: $(BIN)/.installed ## make .venv with the locked versions and the project in it

$(BIN)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "tumorboard needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another: make PYTHON=python3.12"; exit 1; }
	@[ -d .venv ] || df -Pk . "$${TMPDIR:-/tmp}" | awk -v here="$(CURDIR)" \
	  'NR > 1 { free[$$1] = $$4 * 1024 / 1e9; need[$$1] += NR == 2 ? 7.6 : 3.6 } \
	   END { for (disk in need) if (free[disk] < need[disk]) { short = 1; \
	     printf "Making the environment takes %.1f GB on %s, which has %.1f GB left: 7.6 GB in %s, which stay, and " \
	       "3.6 GB of temporary files, for which TMPDIR may name another disk.\n", need[disk], disk, free[disk], here } \
	     exit short }'
	@echo "Making the environment .venv: about 250 packages, 8 GB, most of it the CUDA libraries of torch"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -r requirements.lock | awk \
	  '/^(Collecting|Processing) / { printf "\r\033[K%d: %s", ++n, $$2; fflush() } \
	   /^Installing collected / { printf "\r\033[Kinstalling %d packages, a minute or so ...", n; fflush() } \
	   /^Successfully installed / { printf "\r\033[K" }'
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

test: env ## run the tests, one file at a time per core
	pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: env ## run the tests that `make test` leaves out: further cases of what a faster test covers
	pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow

docs: env ## build the documentation as a site in site/: open site/index.html, no server needed
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "The site: $(CURDIR)/site/index.html"

docs-test: env ## run the commands of README.md and docs/ (for 25 to 60 minutes), and compare what they print and state
	pytest -m docs tests/test_docs.py tests/test_docs_runs.py tests/test_committed_scores.py

lint: env ## check style, types and the directions of imports
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo

format: env ## format the code
	ruff format .
	ruff check --fix .

lock: env ## renew requirements.lock from the ranges in pyproject.toml
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --generate-hashes \
	  pyproject.toml --output-file requirements.lock

plots: env ## draw the charts of this run beside the committed one, as a page without internet
	dvc plots diff HEAD

control: env ## run the pipeline on shuffled labels: are its scores at chance, as they must be?
	tumorboard control

results: env ## train the comparisons of docs/results.md anew, for hours; DATA=folder adds real images, FASTAI=python fastai
	python -m benchmarks.results $(if $(DATA),--data $(DATA)) $(if $(FASTAI),--fastai $(FASTAI))

clean: ## delete what the stages wrote (DVC's cache keeps its copies; raw images stay)
	rm -rf data/phantom data/crop data/split data/balance digests recipes models training predictions report lr_find search .cache

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
