"""On a GPU: the same losses, gradients and texts as on the CPU; training, resuming, compiling, quantizing, sharding.

`bench/gpu.sh` runs them. TEST_DEVICE=cpu runs the same code on a CPU, to find mistakes of the tests themselves.
"""

import copy
import importlib.util
import os

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

import prefixvlm
from prefixvlm.callbacks.frozen_guard import FrozenGuard
from prefixvlm.lm.blocks import compile_blocks, enable_activation_checkpointing
from prefixvlm.lm.causal import CausalLM
from prefixvlm.model import decoding
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.model.trained_state import fingerprint
from prefixvlm.precision import fast_dtype
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO, load
from prefixvlm.training.sharding import RankSynchronizer, ShardedLMStrategy
from tests.conftest import MeanEncoder, TinyMapper, collator_of, tiny_model
from tests.inference.test_predictor import write_checkpoint
from tests.lm.test_quantization import saved
from tests.model.test_prefix_lm import rows_of
from tests.training import test_module
from tests.training.test_module import data_of, module_of

DEVICE = os.environ.get("TEST_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # a GPU machine has other versions, with other warnings, than those pinned
]
FAMILIES = ["gpt2", "opt", "llama", "qwen2", "gpt_neox", "gptj", "bloom", "t5"]
shards = test_module.shards


@pytest.fixture(autouse=True)
def _without_tf32():
    """The tolerances below are those of float32; TF32 is off by default, which a test before these may have changed."""
    torch.set_float32_matmul_precision("highest")


def loss_and_gradients(model, batch):
    model.zero_grad()
    losses = model(batch)
    losses.mean().backward()
    return losses.detach().cpu(), [p.grad.detach().cpu().clone() for p in model.mapper.parameters()]


def assert_same(ours, theirs, tolerance=1e-4):
    torch.testing.assert_close(ours[0], theirs[0], atol=tolerance, rtol=tolerance)
    for one, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_cpu(family, images):
    model = tiny_model(family)
    batch = collator_of(model)(rows_of(images))
    expected = loss_and_gradients(model, batch)
    assert_same(loss_and_gradients(model.to(DEVICE), batch.to(torch.device(DEVICE))), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_those_of_the_cpu(family, images):
    model = tiny_model(family)
    rows = [*rows_of(images), *rows_of(images[2:])]
    batch = collator_of(model)(rows, supervised=False)
    expected = decoding.greedy(model, batch, 12), decoding.beam(model, batch, 12, 4)
    model, batch = model.to(DEVICE), batch.to(torch.device(DEVICE))
    assert (decoding.greedy(model, batch, 12), decoding.beam(model, batch, 12, 4)) == expected
    sampled = decoding.nucleus(model, batch, 12, seed=1)
    assert sampled == decoding.nucleus(model, batch, 12, seed=1)
    assert sampled != decoding.nucleus(model, batch, 12, seed=2)


def test_auto_is_bfloat16_on_a_gpu():
    if ON_GPU:
        assert fast_dtype() == torch.bfloat16


def test_compiled_blocks_give_the_same_for_texts_of_any_length(images):
    model = tiny_model("llama").to(DEVICE)
    compiled = copy.deepcopy(model)
    compile_blocks(compiled.lm.blocks, "inductor")
    for first in range(3):
        batch = collator_of(model)(rows_of(images[first:])[: 3 - first]).to(torch.device(DEVICE))
        assert_same(loss_and_gradients(compiled, batch), loss_and_gradients(model, batch), 1e-3)


def test_checkpointing_gives_the_same_and_takes_less_memory(images):
    model = tiny_model("llama", width=128).to(DEVICE)
    recomputing = copy.deepcopy(model)
    enable_activation_checkpointing(recomputing.lm.blocks)
    batch = collator_of(model)([*rows_of(images), *rows_of(images[1:])] * 8).to(torch.device(DEVICE))
    expected = loss_and_gradients(model, batch)
    assert_same(loss_and_gradients(recomputing, batch), expected)
    if ON_GPU:
        assert forward_memory(recomputing, batch) < 0.7 * forward_memory(model, batch)


def forward_memory(model, batch):
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    losses = model(batch)  # holds what the backward pass needs
    memory = torch.cuda.memory_allocated() - before
    del losses
    return memory


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantized_model_trains_a_mapper_and_is_unchanged(tmp_path, images, kind):
    exact = saved(tmp_path, "llama").to(DEVICE)
    lm = CausalLM.from_pretrained(str(tmp_path), quantization=kind)
    assert lm.model.device.type == DEVICE
    mark, before = fingerprint(lm), {name: value.clone() for name, value in lm.state_dict().items()}
    torch.manual_seed(0)
    model = PrefixLM(MeanEncoder(), TinyMapper(lm.width), lm).to(DEVICE)
    batch = collator_of(model)(rows_of(images)).to(torch.device(DEVICE))
    unquantized = PrefixLM(model.encoder, model.mapper, exact)
    assert model(batch).mean().item() == pytest.approx(unquantized(batch).mean().item(), rel=0.1)
    optimizer = torch.optim.AdamW(model.mapper.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(batch).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert fingerprint(lm) == mark
    assert all(torch.equal(value, before[name]) for name, value in lm.state_dict().items())


def trainer_of(*callbacks, strategy="auto", **keywords):
    return Trainer(
        accelerator="gpu" if ON_GPU else "cpu", devices=1, strategy=strategy, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        callbacks=list(callbacks), plugins=[AtomicCheckpointIO()], **keywords,
    )  # fmt: skip


def weights(module):
    return {name: value.detach().cpu().clone() for name, value in module.model.mapper.state_dict().items()}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_leaves_frozen_weights_alone_and_resumes_exactly(shards, tmp_path, precision):
    whole = module_of(family="llama")
    mark, first = fingerprint(whole.model.lm), weights(whole)
    trainer_of(FrozenGuard(), max_epochs=3, precision=precision).fit(whole, data_of(whole, shards))
    assert fingerprint(whole.model.lm) == mark
    assert any(not torch.equal(value, first[name]) for name, value in weights(whole).items())
    half, trainer = module_of(family="llama"), trainer_of(max_epochs=1, precision=precision)
    trainer.fit(half, data_of(half, shards))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module_of(seed=3, family="llama")
    trainer = trainer_of(max_epochs=3, precision=precision)
    trainer.fit(resumed, data_of(resumed, shards), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_of_a_gpu_validates_the_same_on_the_cpu(shards, tmp_path):
    module, trainer = module_of(family="llama"), trainer_of(max_epochs=1)
    trainer.fit(module, data_of(module, shards, num_workers=1))
    trainer.validate(module, data_of(module, shards), verbose=False)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert {tensor.device.type for tensor in load(tmp_path / "x.ckpt")["state_dict"].values()} == {"cpu"}
    other, cpu = module_of(seed=3, family="llama"), test_module.trainer_of()
    cpu.validate(other, data_of(other, shards), ckpt_path=tmp_path / "x.ckpt", verbose=False, weights_only=True)
    ours, theirs = (each.callback_metrics["val/loss"].item() for each in (trainer, cpu))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_sharding_in_one_process_is_ddp(shards):
    found = []
    for strategy in (DDPStrategy(process_group_backend=None), ShardedLMStrategy()):
        module = module_of(family="llama")
        synchronizer = [RankSynchronizer()] if isinstance(strategy, ShardedLMStrategy) else []
        trainer = trainer_of(*synchronizer, strategy=strategy, max_epochs=2, inference_mode=not synchronizer)
        data = data_of(module, shards)
        trainer.fit(module, data)
        trainer.test(module, data, verbose=False)
        texts = [p.prediction for predictions in module.predictions.values() for p in predictions]
        found.append((texts, weights(module)))
        torch.distributed.destroy_process_group()
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, atol=1e-5, rtol=1e-4)


def test_a_captioner_on_the_gpu_says_what_it_says_on_the_cpu(tmp_path, images):
    write_checkpoint(tmp_path)
    said = [prefixvlm.load(tmp_path / "x.ckpt", device=device) for device in ("cpu", DEVICE)]
    assert said[0].caption(images) == said[1].caption(images)
    assert said[0].answer(images[0], "what is it?") == said[1].answer(images[0], "what is it?")
    torch.testing.assert_close(said[0].embed(images), said[1].embed(images), atol=1e-4, rtol=1e-4)
    assert "".join(said[1].stream(images[0])) == said[0].caption(images[0])
