# wattmill: `make help` lists what there is.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
ARGS ?=
PYTEST_ARGS ?=
# One process runs factories, the others arithmetic; PYTEST_PROCESSES=0 runs all in one.
PYTEST_PROCESSES ?= 2
export VENV
# Containers like to set this: then each process of a factory compiles all of its modules anew, three times the work.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up install dev weights test test-clients check format bench chaos runaway faults overload policies privacy-proof replay-proof aiperf test-engines bench-twin lock docs fresh-machine clean caps plan-grid test-ray test-operators shifting power-event joules-hour site-year policies-held-out efficiency-live twin-live

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

up: weights ## run the factory (make up ARGS="--for 60s" ends by itself)
	@exec $(VENV)/bin/wattmill up --load $(ARGS)

install: ## make .venv with the locked packages
	@scripts/setup.sh run

weights: install ## fetch and check the example's weights, once
	@$(VENV)/bin/wattmill models pull

dev: ## .venv with the developers' packages too
	@scripts/setup.sh dev

test: dev weights ## run the tests (PYTEST_ARGS="-k journal" narrows)
	@scripts/system-packages.sh
	@scripts/node-client.sh
	$(PY) -m pytest -n $(PYTEST_PROCESSES) $(PYTEST_ARGS)

check: dev ## lint, format check, types, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PYTHONPATH=src $(VENV)/bin/lint-imports

format: dev ## put the code into the project's format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: dev ## the gateway against direct and nginx; writes benchmarks/results/gateway.json
	@scripts/system-packages.sh nginx
	$(PY) benchmarks/gateway.py $(ARGS)

bench-twin: dev ## the twin: compiled engines, a fleet of 1,000 replicas for an hour, the gateway's policy; writes benchmarks/results/twin.json
	$(PY) benchmarks/twin.py $(ARGS)

twin-live: dev weights ## the twin against the embedded engine at half, near and beyond saturation, and from the ledger (7 min, a quiet machine)
	cd benchmarks && ../$(PY) twin_live.py $(ARGS)

overload: dev ## three times the load that there is, by tiers, 1 and 2 workers (ARGS=--live: the embedded engine)
	$(PY) benchmarks/overload.py $(ARGS)

joules-hour: dev weights ## an hour of load, half of it with kills: does every joule of the meter stand in the books? (ARGS="--seconds 600")
	cd benchmarks && ../$(PY) joules_hour.py $(ARGS)

power-event: dev weights ## a grid event on a live factory: 25 % less for three minutes, and who notices
	$(PY) benchmarks/power_event.py $(ARGS)

caps: dev ## spend keys to their caps in every way that leaks; the last line says by how much they were passed
	@scripts/system-packages.sh postgres
	-$(PY) benchmarks/caps_rival.py
	$(PY) benchmarks/caps.py $(ARGS)

chaos: dev weights ## 50 random kills under load; the last line says what was lost and doubled
	$(PY) benchmarks/chaos.py $(ARGS)

privacy-proof: dev ## 100,000 random requests under faults: what did a place get that it must not see?
	$(PY) benchmarks/privacy_proof.py $(ARGS)

replay-proof: dev ## record 12,000 requests with 2 workers, a reload, a kill and a restart; decide each again
	$(PY) benchmarks/replay_proof.py $(ARGS)

runaway: dev ## the shipped runaway agent meets its cap on each door; how soon runaways are told, and how often others are
	$(PY) benchmarks/runaway.py
	$(PY) benchmarks/runaway_stops.py $(ARGS)

faults: dev ## ten thousand scripted faults, streamed and not, with and without hedging; judged from outside
	$(PY) benchmarks/faults.py $(ARGS)

policies: dev ## routing policies and LiteLLM's on two whole traces, against a lower bound; writes benchmarks/results/policies.json
	$(PY) benchmarks/policies.py $(ARGS)

policies-held-out: dev ## the default and LiteLLM's rules on traffic that no setting was chosen on (ARGS="--seed 22")
	$(PY) benchmarks/policies_held_out.py $(ARGS)

efficiency-live: dev weights ## losses put into a living factory one by one: whose bar moves?
	$(PY) benchmarks/efficiency_live.py $(ARGS)

shifting: dev ## what moving work in time and between places saves, on the hourly prices and carbon of 2024
	$(VENV)/bin/wattmill site shift benchmarks/data/energy_2024_hourly.csv.gz $(ARGS)

site-year: dev ## how long a year of a site takes, with chain, cooling, sun, battery, tariff and dispatch (goal 10 s)
	$(PY) benchmarks/site_year.py

plan-grid: dev ## the planner's programme against a grid search in three cases; writes benchmarks/results/plan_grid.json
	$(PY) benchmarks/plan_against_grid.py $(ARGS)

test-ray: dev ## sweeps over a real Ray cluster of two nodes on this machine (.venv-ray, its own environment)
	@python="$$(scripts/environment.sh .venv-ray tests/cluster/requirements.lock)" && \
	  WATTMILL_RAY_PYTHON="$$python" $(PY) -m pytest tests/cluster -m "slow or not slow" $(PYTEST_ARGS)

test-operators: dev ## operator tables as they are installed (.venv-operators, 280 MB): what is opened, what comes out
	@python="$$(scripts/environment.sh .venv-operators tests/operators/requirements.lock --no-deps)" && \
	  WATTMILL_OPERATORS="$$("$$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  $(PY) -m pytest tests/operators -m "slow or not slow" $(PYTEST_ARGS)

aiperf: dev ## replay a trace by a neutral client (installs aiperf into its own .venv-aiperf)
	$(PY) benchmarks/aiperf_replay.py $(ARGS)

test-engines: dev weights ## the engines' suite against vLLM's CPU build and transformers serve (.venv-engines, 3.4 GB)
	@scripts/test-engines.sh $(PYTEST_ARGS)

test-clients: dev ## LangChain, LangGraph, pydantic-ai, Agents SDK and llm against a real factory (.venv-clients, 160 MB)
	@scripts/node-client.sh
	@python="$$(scripts/environment.sh .venv-clients tests/clients/requirements.lock)" && \
	  WATTMILL_CLIENTS_PYTHON="$$python" $(PY) -m pytest tests/clients -m "slow or not slow" $(PYTEST_ARGS)

lock: dev ## resolve pyproject.toml into both locks (ARGS=--upgrade for the newest)
	@scripts/lock.sh $(ARGS)

docs: dev ## write docs/reference from the code, and README's figures from the results
	$(PY) -m wattmill.cli.reference docs/reference
	$(PY) scripts/readme_figures.py

fresh-machine: ## try `make up` in a bare Debian folder (needs root and debootstrap)
	@scripts/fresh-machine.sh

clean: ## remove .venv and caches; the data folder stays
	rm -rf .venv .venv-aiperf .venv-engines .venv-clients .venv-ray .venv-operators .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
