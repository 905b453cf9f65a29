"""The programs let OpenMP's threads sleep before torch reads that, unless the user has said otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefixvlm.data.shards.write import write_shards
from tests.data.conftest import png

ROOT = Path(__file__).parents[2]
# Runs a program until it imports torch.
UNTIL_TORCH = """
import os, runpy, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Finder())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(code, *words, **variables):
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | variables
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=60, check=True
    )


@pytest.mark.parametrize(
    "words",
    [
        "train.py experiment=clip_pretrain data.shards={0}/shards",
        "eval.py ckpt={0}/x.ckpt",
        "src/prefixvlm/cli.py describe",
    ],
)
def test_a_program_says_so_before_it_imports_torch(words, tmp_path):
    (tmp_path / "x.ckpt").touch()  # what the programs check before they import torch
    write_shards(
        {split: [(split, {"png": png(), "txt": b"a"})] for split in ("train", "val")},
        tmp_path / "shards",
        "a test",
        "none",
    )
    program, *options = words.format(tmp_path).split()
    assert run(UNTIL_TORCH, str(ROOT / program), *options).stdout == "PASSIVE\n"


def test_the_users_own_value_stays():
    code = "from prefixvlm.distributed.threads import *; wait_without_spinning(); print(os.environ['OMP_WAIT_POLICY'])"
    assert run(code, OMP_WAIT_POLICY="ACTIVE").stdout == "ACTIVE\n"


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP there")
def test_torchs_openmp_takes_a_value_that_is_set_in_the_process():
    code = "from prefixvlm.distributed.threads import *; wait_without_spinning(); import torch"
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in run(code, OMP_DISPLAY_ENV="TRUE").stderr
