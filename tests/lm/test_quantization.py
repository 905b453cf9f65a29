"""Quantized language models: size, accuracy, gradients through them, fingerprint."""

import sys

import pytest
import torch

from prefixvlm.lm import packaged
from prefixvlm.lm.causal import CausalLM
from prefixvlm.model.decoding import greedy
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.model.trained_state import fingerprint
from tests.conftest import MeanEncoder, TinyMapper, collator_of, tiny_lm
from tests.lm.test_packaged import needs_package
from tests.model.test_prefix_lm import rows_of

pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast from")
KINDS = [("int8", torch.int8), ("nf4", torch.uint8)]


def saved(folder, family):
    lm = tiny_lm(family, width=128)  # bitsandbytes reads matrices of less than 64 columns wrong on some CPUs
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return lm


def logits_of(lm, ids):
    hidden = lm.hidden(lm.embed(ids), torch.ones_like(ids), torch.arange(ids.shape[1])[None])
    return lm.logits(hidden)


def likeness(first, second):
    return torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0).item()


def matrices(lm):
    return [p for block in lm.blocks for p in block.parameters() if p.ndim > 1]


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_quantized_model_trains_a_mapper_and_is_unchanged(tmp_path, images, family, kind, dtype):
    exact = saved(tmp_path, family)
    lm = CausalLM.from_pretrained(str(tmp_path), quantization=kind)
    assert {p.dtype for p in matrices(lm)} == {dtype}
    assert lm.dtype == torch.bfloat16
    assert sum(p.nbytes for p in matrices(lm)) * (8 if kind == "nf4" else 4) == sum(p.nbytes for p in matrices(exact))
    ids = torch.tensor([[1, 5, 9, 200, 7]])
    # Random weights are the hardest to quantize.
    assert likeness(logits_of(lm, ids), logits_of(exact, ids)) > (0.9 if kind == "nf4" else 0.999)

    before = {name: value.clone() for name, value in lm.state_dict().items()}
    mark = fingerprint(lm)
    torch.manual_seed(0)
    model = PrefixLM(MeanEncoder(), TinyMapper(lm.width), lm).to("cpu")
    batch, optimizer = collator_of(model)(rows_of(images)), torch.optim.AdamW(model.mapper.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in lm.state_dict().items())
    greedy(model, collator_of(model)(rows_of(images), supervised=False), 3)
    assert fingerprint(lm) == mark == fingerprint(CausalLM.from_pretrained(str(tmp_path), quantization=kind))
    assert mark != fingerprint(exact)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_losses_and_gradients_equal_those_of_dequantized_weights(tmp_path, images, family, kind):
    saved(tmp_path, family)

    def quantized(**options):
        return CausalLM.from_pretrained(str(tmp_path), quantization=kind, dtype="float32", **options)

    floats = quantized()
    floats = CausalLM(floats.model.dequantize(dtype=torch.float32), floats.tokenizer)
    assert {p.dtype for p in matrices(floats)} == {torch.float32}
    losses, gradients = [], []
    for lm in (floats, quantized(), quantized(activation_checkpointing=True)):
        torch.manual_seed(0)
        model = PrefixLM(MeanEncoder(), TinyMapper(lm.width), lm)
        losses.append(model(collator_of(model)(rows_of(images))))
        losses[-1].mean().backward()
        gradients.append(model.mapper.linear.weight.grad)
    alike = 0.99 if kind == "int8" else 0.999999  # int8 also rounds the inputs of the matrices
    assert likeness(losses[1], losses[0]) > alike
    assert likeness(gradients[1], gradients[0]) > alike
    assert torch.equal(gradients[2], gradients[1])


@needs_package
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least"), [("int8", 0.98), ("nf4", 0.93)])  # so small a model suffers the most
@torch.no_grad()
def test_a_quantized_pretrained_model_has_nearly_the_same_logits(kind, least):
    exact = packaged.SmolLM2.from_pretrained(dtype="float32")
    ids = torch.tensor([exact.tokenizer("The capital of France is").input_ids])
    lm = packaged.SmolLM2.from_pretrained(quantization=kind)
    ours, theirs = logits_of(lm, ids), logits_of(exact, ids)
    assert likeness(ours, theirs) > least
    assert lm.tokenizer.decode(ours[0, -1].argmax(-1)).strip() == "Paris"


def test_an_unknown_quantization_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="lm.quantization is 'int4'; accepted are null, int8 and nf4"):
        CausalLM.from_pretrained(str(tmp_path), quantization="int4")


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_a_missing_package_is_an_error(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    with pytest.raises(ValueError, match=rf"lm.quantization=nf4 needs the package {package}; `pip install 'prefixvlm"):
        CausalLM.from_pretrained(str(tmp_path), quantization="nf4")
