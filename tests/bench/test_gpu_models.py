"""bench/gpu_models.py counts the operations of a step as torch's counter does; bench/gpu.py runs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.test_end_to_end import run

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu_models
    import gpu_steps

    yield gpu_models, gpu_steps
    for name in ("gpu_models", "gpu_steps", "sides"):
        sys.modules.pop(name, None)


def test_the_operations_of_a_step_are_those_that_torch_counts(bench, monkeypatch):
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)  # torch does not count its fused attention
    models, steps = bench
    size = models.Size(4, 512, 2048, 8, 2, 4096, 4)
    device = torch.device("cpu")
    model = models.prefix_lm(models.random_encoder(True, device), models.wrap(
        models.random_llama(size, device, torch.float32)), device)  # fmt: skip
    batch = steps.Steps(model, size).batch(0)
    model.lm.packs = False
    every_row = torch.full((size.batch,), batch.attention_mask.shape[1])  # torch counts padding, too
    needed = models.step_flops(size, model, every_row, int((batch.labels >= 0).sum()))
    with FlopCounterMode(display=False) as counter:
        # Not model(batch): the counter's hooks and the gradient within its forward pass exclude each other.
        hidden, targets = model.lm.supervised_states(model.inputs_embeds(batch), batch.attention_mask, batch.labels)
        torch.nn.functional.cross_entropy(model.lm.logits(hidden), targets).backward()
    assert needed == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert models.lm_flops(size, every_row)[0] > 0.2 * needed  # so a mistake in it would be seen


@pytest.mark.slow
def test_gpu_bench_runs_on_a_cpu_with_tiny_models(tmp_path):
    out = run(BENCH / "gpu.py", "--quick", "--no-training", "--out", tmp_path).stdout
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["tiny"]["loss_difference"] < 1e-2
    assert found["tiny"]["greedy"]["same_captions"] > 0.9
    assert all(found["tiny"][side]["step_seconds"] > 0 for side in ("plain", "ours", "ours, compiled", "ours, nf4"))
    assert "activation checkpointing" in out
