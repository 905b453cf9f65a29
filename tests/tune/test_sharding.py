"""Tuned language models on two processes with gloo: FSDP equals DDP."""

import json

import pytest
import torch

from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from tests.training import test_module
from tests.training.test_sharding import on_two_ranks

shards = test_module.shards


@pytest.mark.slow
def test_tuned_weights_are_replicated_and_frozen_ones_are_sharded(shards, tmp_path):
    on_two_ranks("tests/tune/two_ranks.py", shards, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for results in ranks:
        for tuning in ("lora", "adapters_norms"):
            ddp, fsdp = results[f"{tuning}_ddp"], results[f"{tuning}_fsdp"]
            assert fsdp["train"] == pytest.approx(ddp["train"], abs=1e-5)
            assert fsdp["val"] == pytest.approx(ddp["val"], abs=1e-5)
            assert fsdp["same"]
            assert ddp["share"] == 1
            assert 0.5 < fsdp["share"] < 0.75  # in blocks this small, tuned weights are a good part
        for tuning in ("last_blocks", "all"):
            assert len(results[f"{tuning}_ddp"]["train"]) == 3
            assert results[f"{tuning}_fsdp"]["error"].endswith(
                "tune trains whole blocks; set trainer=ddp or another tune"
            )
    for tuning in ("lora", "adapters_norms"):
        ours, theirs = load(tmp_path / f"{tuning}_fsdp.ckpt"), load(tmp_path / f"{tuning}_ddp.ckpt")
        assert ours[KEY]["identity"] == theirs[KEY]["identity"]
        assert ours["state_dict"].keys() == theirs["state_dict"].keys()
        for key, tensor in theirs["state_dict"].items():
            torch.testing.assert_close(ours["state_dict"][key], tensor, atol=1e-5, rtol=1e-5)
