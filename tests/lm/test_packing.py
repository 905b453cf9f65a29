"""Packing: texts in one row must not attend to each other."""

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, OPTForCausalLM

from prefixvlm.batch import Row
from prefixvlm.lm.causal import CausalLM, keeps_texts_apart
from prefixvlm.lm.packing import Packing
from tests.conftest import byte_tokenizer, collator_of, tiny_lm


@pytest.mark.parametrize("lengths", [[7, 1, 3, 7, 2], [1], [4, 4], [2, 9]])
def test_every_token_has_exactly_one_place(lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    packing = Packing.of_mask(mask)
    places = packing.place[mask]
    assert len(places.unique()) == sum(lengths)
    assert torch.equal(packing.source.flatten()[places], mask.flatten().nonzero()[:, 0])
    assert torch.equal(packing.positions.flatten()[places], torch.cat([torch.arange(n) for n in lengths]))
    assert packing.source.numel() <= mask.numel() + 2 * max(lengths)


def test_losses_and_gradients_equal_those_with_padding(model, images):
    rows = [Row((image, "Q: " * i), "a" * (3 * i + 1)) for i, image in enumerate(images)]
    batch = collator_of(model)(rows)
    packed = model(batch)
    (gradient,) = torch.autograd.grad(packed.mean(), model.mapper.linear.weight)
    # OPT does not pass its positions to transformers' mask, which could not see where they restart.
    assert model.lm.packs == (not isinstance(model.lm.model, OPTForCausalLM))
    model.lm.packs = False
    padded = model(batch)
    torch.testing.assert_close(packed, padded, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(padded.mean(), model.mapper.linear.weight)[0], atol=1e-4, rtol=1e-3
    )


def test_a_model_without_position_ids_is_not_packed():
    tokenizer = byte_tokenizer()
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2, bos_token_id=256, eos_token_id=256
    )
    assert not keeps_texts_apart(CausalLM(BloomForCausalLM(config), tokenizer))


def test_a_model_whose_attention_ignores_restarts_is_not_packed():
    lm = tiny_lm("llama")
    assert keeps_texts_apart(lm)
    forward = lm.model.base_model.forward

    def without_restarts(inputs_embeds, position_ids, **kwargs):
        positions = torch.arange(inputs_embeds.shape[1]).expand(inputs_embeds.shape[:2])
        return forward(inputs_embeds=inputs_embeds, position_ids=positions, **kwargs)

    lm.model.base_model.forward = without_restarts
    assert not keeps_texts_apart(lm)
