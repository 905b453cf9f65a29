"""Attention to the prefix against the attentions that transformers returns."""

from dataclasses import replace

import pytest
import torch

from prefixvlm.inspect.attention import attention, eager_attention
from tests.inspect.conftest import make_model, make_target


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "t5"])
def test_attention_is_that_of_transformers(family, noise):
    model = make_model(family)
    target = make_target(model, noise, " abc")
    found, lm = attention(target), model.lm.model
    ids, is_target = target.batch.input_ids[0], target.batch.labels[0] >= 0
    embeds = lm.get_input_embeddings()(ids.clamp_min(0))
    embeds[ids < 0] = target.prefix()[0]
    lm.set_attn_implementation("eager")
    with torch.no_grad():
        if family == "t5":
            output = lm(inputs_embeds=embeds[None, ~is_target], labels=ids[None, is_target], output_attentions=True)
            layers = torch.stack(output.cross_attentions)[:, 0].mean(1)
        else:
            layers = torch.stack(lm(inputs_embeds=embeds[None], output_attentions=True).attentions)[:, 0].mean(1)
    start = int(is_target.nonzero()[0])
    for token in range(4):
        row = layers[:, token] if family == "t5" else layers[:, start - 1 + token]
        torch.testing.assert_close(found.prefix[:, token], row[:, :3].float())
        torch.testing.assert_close(found.prompt[:, token], row[:, 3:start].sum(1).float())
        torch.testing.assert_close(found.text[:, token], row[:, start:].sum(1).float())
    whole = found.prefix.sum(-1) + found.prompt + found.text
    torch.testing.assert_close(whole, torch.ones_like(whole))
    assert found.prefix.shape == (2, 4, 3)
    assert found.crossed == (family == "t5")


def test_the_kind_of_attention_is_restored(target):
    lm = target.model.lm.model
    config = [each.config for each in lm.modules() if hasattr(each, "config")]
    before = [each._attn_implementation for each in config]
    assert set(before) == {"sdpa"}
    with eager_attention(lm):
        assert {each._attn_implementation for each in config} == {"eager"}
    assert [each._attn_implementation for each in config] == before
    with pytest.raises(RuntimeError, match="inside"), eager_attention(lm):
        raise RuntimeError("inside")
    assert [each._attn_implementation for each in config] == before


def test_a_class_has_no_attention(target):
    with pytest.raises(ValueError, match="no token is said"):
        attention(replace(target, has_text=False))
