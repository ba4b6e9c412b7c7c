# The whole life of a checkout. `make` alone explains itself.
PYTHON ?= python3
PORT ?= 8000
# A package index to take torch from, such as one of CPU builds.
TORCH_INDEX ?=
# Name of the image that `make image` builds; its tag is the version.
IMAGE ?= s2d-ray
# Handed on to pytest (`make test`), or to what `make exact`, `soak`, `fuzz`, `flood`, `chaos`,
# `watch`, `load` and `benefit` run.
ARGS ?=

VENV := .venv
INSTALL := $(PYTHON) s2d_ray/install.py --torch-index "$(TORCH_INDEX)"

.DEFAULT_GOAL := help
.PHONY: help serve stop test lint exact soak fuzz flood chaos watch load benefit audit \
	tutorial reference pictures chart kube-tools image test-image setup setup-dev clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "  options: PORT=8000  PYTHON=python3  TORCH_INDEX=URL  IMAGE=s2d-ray  ARGS=..."

serve: ## install what is missing, then serve the quickstart on PORT
	@$(PYTHON) s2d_ray/preflight.py --port $(PORT)
	@$(INSTALL)
	@exec $(VENV)/bin/s2d serve deployments/quickstart.yaml --port $(PORT)

stop: ## end a run, and whatever a killed run left
	@if [ -x $(VENV)/bin/s2d ]; then $(VENV)/bin/s2d stop; \
	else echo "s2d: nothing is installed here, so nothing runs"; fi

test: setup-dev ## run the tests, two at a time; ARGS go to pytest
	@$(VENV)/bin/python -m pytest --numprocesses 2 $(ARGS)

lint: setup-dev ## ruff and mypy, which also reads the commands that run below tests
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy --strict s2d_ray
	$(VENV)/bin/python -m mypy --follow-imports=silent \
		$$(sed -n 's|.*-m tests\.\([a-z_]*\).*|tests/\1.py|p' Makefile)

exact: setup-dev ## show on real weights that speculation changes no text; ARGS go to it
	@$(VENV)/bin/python -m s2d_ray.bench.exact $(ARGS)

soak: setup-dev ## ten minutes of random traffic on tiny models; ARGS go to it
	@$(VENV)/bin/python -m tests.soak $(ARGS)

fuzz: setup-dev ## send the API thousands of right and wrong requests; ARGS go to it
	@$(VENV)/bin/python -m tests.fuzz $(ARGS)

flood: setup-dev ## measure what a flooding tenant does to another's waits; ARGS go to it
	@$(VENV)/bin/python -m tests.flood_live $(ARGS)

chaos: setup-dev ## ten minutes of faults on a local cluster beside open streams; ARGS go to it
	@$(VENV)/bin/python -m tests.chaos $(ARGS)

watch: setup-dev ## see if a real Prometheus has an answer to every panel; ARGS go to it
	@$(VENV)/bin/python -m tests.watching $(ARGS)

load: setup-dev ## ten minutes of open-loop load, on the quickstart or on --url; ARGS go to it
	@$(VENV)/bin/python -m tests.load $(ARGS)

benefit: setup-dev ## does the control group tell the truth? Ten minutes; ARGS go to it
	@$(VENV)/bin/python -m tests.benefit_live $(ARGS)

audit: setup-dev ## ask for known vulnerabilities of what constraints.txt pins
	@$(VENV)/bin/python -m tests.audit $(ARGS)

tutorial: setup-dev ## run every block of docs/tutorial.md in a new clone, on a tiny random model
	@$(VENV)/bin/python -m tests.tutorial

reference: setup-dev ## write docs/api-reference.md from the published document
	@$(VENV)/bin/python -m s2d_ray.serve.openai.reference

pictures: setup-dev ## measure and draw the pictures of docs/how-it-works.md
	@$(VENV)/bin/python -m tests.pictures $(ARGS)

chart: kube-tools ## write what of the Helm chart and of k8s/ is made from the models
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python -m s2d_ray.kube.chart_files

kube-tools: setup-dev ## fetch helm and kubectl into .venv/, for the tests of the chart
	@$(VENV)/bin/python tests/kube/fetch_tools.py $(VENV)/bin

image: ## build the image for Kubernetes, tagged with the version; needs docker
	docker build --file deployments/image/Dockerfile --build-arg TORCH_INDEX="$(TORCH_INDEX)" \
		--tag "$(IMAGE):$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' s2d_ray/__init__.py)" .

test-image: setup-dev ## run the image's build in a bare Debian, then `s2d check` in it; needs root
	@$(VENV)/bin/python -m pytest tests/e2e/image.py $(ARGS)

setup: ## install what serving needs into .venv/
	@$(PYTHON) s2d_ray/preflight.py
	@$(INSTALL)

setup-dev: ## install what serving, testing and linting need
	@$(PYTHON) s2d_ray/preflight.py
	@$(INSTALL) --extra dev

clean: ## remove .venv/ and the tools' caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
