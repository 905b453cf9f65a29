"""Activation checkpointing and compilation of blocks: the same numbers and names, less memory."""

import copy
from collections import Counter

import pytest
import torch

from prefixvlm.batch import Row
from prefixvlm.lm.causal import CausalLM
from prefixvlm.model.decoding import beam, greedy
from prefixvlm.model.trained_state import fingerprint
from tests.conftest import collator_of, tiny_model
from tests.model.test_prefix_lm import rows_of

# Dynamo reads .grad of every input and hides the warning, but pytest makes it an error before.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


def changed(model, **options):
    """Return a copy of the model with other options of its language model."""
    other = copy.deepcopy(model)
    other.lm = CausalLM(other.lm.model, other.lm.tokenizer, **options)
    return other


def step(model, batch):
    """Return the losses and the gradients of the trained parameters."""
    model.zero_grad()
    losses = model(batch)
    losses.mean().backward()
    return losses.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]


def counted(model, batch):
    """Return how often the last linear layer of each block is called in a training step."""
    calls = Counter()
    for index, block in enumerate(model.lm.blocks):
        part = next(m for m in block.modules() if not list(m.children()))
        part.register_forward_hook(lambda *_, index=index: calls.update([index]))
    step(model, batch)
    return list(calls.values())


def stored_bytes(model, batch):
    """Return the bytes that the graph stores for the backward pass; each storage counts once."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch)
    return sum(storages.values())


def test_checkpointed_blocks_give_the_same_bits(model, images):
    twice = changed(model, activation_checkpointing=True)
    model(batch := collator_of(model)(rows_of(images)))  # both have probed for packing before
    twice(batch)
    losses, gradients = step(model, batch)
    for _ in range(2):
        same_losses, same_gradients = step(twice, batch)
        assert torch.equal(losses, same_losses)
        assert all(torch.equal(a, b) for a, b in zip(gradients, same_gradients, strict=True))
    assert counted(model, batch) == [1, 1]
    assert counted(twice, batch) == [2, 2]


def test_checkpointed_blocks_store_less(images):
    model = tiny_model("llama")
    batch = collator_of(model)([Row((image,), " a long text" * 5) for image in images] * 4)
    assert stored_bytes(changed(model, activation_checkpointing=True), batch) < 0.45 * stored_bytes(model, batch)


@pytest.mark.parametrize(
    "options", [{"activation_checkpointing": True}, {"activation_checkpointing": True, "compile": "eager"}]
)
def test_generation_names_and_fingerprint_are_unchanged(model, images, options):
    other = changed(model, **options)
    prompts = collator_of(model)(rows_of(images), supervised=False)
    step(other, collator_of(model)(rows_of(images)))  # compiles the blocks before generation
    for decode in (greedy, beam):
        assert decode(other, prompts, 6) == decode(model, prompts, 6)
    assert list(other.state_dict()) == list(model.state_dict())
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert fingerprint(other.lm) == fingerprint(model.lm)


def test_a_copied_model_uses_its_own_weights(images):
    model = changed(tiny_model("gpt2"), activation_checkpointing=True)
    batch = collator_of(model)(rows_of(images))
    before = model(batch).detach()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm.blocks[0].mlp.c_fc.weight.mul_(3)
    assert torch.equal(model(batch), before)
    assert not torch.allclose(other(batch), before)


def compiled_matches(model, images, backend, shapes=3):
    other = changed(model, compile=backend)
    for rows in (rows_of(images), rows_of(images)[:2], [Row((images[0], "Q"), "abc" * 9)] * 2)[:shapes]:
        batch = collator_of(model)(rows)
        for theirs, ours in zip(step(model, batch), step(other, batch), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(other(batch), model(batch), atol=1e-5, rtol=1e-4)
    prompts = collator_of(model)(rows_of(images), supervised=False)
    assert greedy(other, prompts, 6) == greedy(model, prompts, 6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_compiled_blocks_give_the_same_losses_at_any_length_with_few_graphs(family, images):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled_matches(tiny_model(family), images, "aot_eager")
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert 0 < counters["stats"]["unique_graphs"] <= 6  # with gradients or not; for a mask, one row, several rows


@pytest.mark.slow
def test_inductor_gives_the_same_losses(images):
    torch._dynamo.reset()
    compiled_matches(tiny_model("llama"), images, True, shapes=1)  # a compilation takes a compiler half a minute


def test_an_unknown_backend_is_an_error():
    lm = tiny_model("gpt2").lm
    with pytest.raises(ValueError, match=r"lm.compile is 'fast'; accepted are true, false and .*inductor"):
        CausalLM(lm.model, lm.tokenizer, compile="fast")
