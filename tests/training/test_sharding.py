"""A language model sharded over two real processes with gloo, compared with DDP."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from tests.forked import FORKED
from tests.training import test_module

shards = test_module.shards
ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def on_two_ranks(*command, timeout=240):
    child = FORKED.start([*TORCHRUN, *command], env={"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])})
    deadline = time.monotonic() + timeout
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if late := child.poll() is None:
        child.send_signal(signal.SIGTERM)  # torchrun then ends its ranks, which are in sessions of their own
    output = "".join(child.communicate())
    assert not late, "the ranks wait for each other:\n" + output[-3000:]
    assert child.returncode == 0, output[-5000:]


@pytest.mark.slow
def test_a_sharded_language_model_trains_validates_and_predicts_as_under_ddp(shards, tmp_path):
    on_two_ranks("tests/training/two_ranks.py", shards, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["ddp"]["num_batches"] != ranks[1]["ddp"]["num_batches"]  # uneven validation is part of this test
    for found in ranks:
        for name, other in (("sharded", "ddp"), ("sharded_on", "ddp_on")):
            assert found[name]["train"] == pytest.approx(found[other]["train"], abs=1e-5)
            assert found[name]["val"] == pytest.approx(found[other]["val"], abs=1e-5)
            assert found[name]["texts"] == found[other]["texts"]
            assert found[name]["same"]
            assert 0.45 < found[name]["share"] < 0.55
            assert found[other]["share"] == 1
    assert len(ranks[0]["ddp"]["train"]) == 3
    assert len(ranks[0]["sharded"]["texts"]) == 15
    for name, other in (("sharded", "ddp"), ("sharded_on", "ddp_on")):
        ours, theirs = load(tmp_path / f"{name}.ckpt"), load(tmp_path / f"{other}.ckpt")
        assert ours[KEY]["identity"] == theirs[KEY]["identity"]
        assert ours[KEY]["identity"]["lm"] == ranks[0]["ddp"]["whole"]
        assert ours["state_dict"].keys() == theirs["state_dict"].keys()
        for key, tensor in theirs["state_dict"].items():
            torch.testing.assert_close(ours["state_dict"][key], tensor, atol=1e-5, rtol=1e-5)
