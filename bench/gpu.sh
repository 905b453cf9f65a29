#!/usr/bin/env bash
# What needs a GPU, in one command of about 6 minutes on an H100: the tests marked gpu, then bench/gpu.py.
# Offline; all weights are random. `bench/gpu.sh --quick` runs the same code with tiny models on a CPU.
# PYTHON is the interpreter (.venv's); OUT is the folder of the results (outputs/bench).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-outputs/bench}
export HF_HUB_OFFLINE=1 WANDB_MODE=offline PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
[[ " $* " == *" --quick "* ]] && export TEST_DEVICE=cpu
"$python" -m pytest -m gpu tests/test_gpu.py -n 0 -p no:cacheprovider --durations=5 2>&1 | tee "$out/gpu-tests.txt"
tests=$?
"$python" bench/gpu.py --out "$out" "$@" 2>&1 | tee "$out/gpu.txt"
exit $((tests + $?))
