"""Every family of language models: batches, interleaved images, decoding and scoring against naive loops."""

from collections import Counter

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, MptConfig, MptForCausalLM

from prefixvlm.batch import Row
from prefixvlm.lm.causal import CausalLM
from prefixvlm.model import decoding
from prefixvlm.model.constrained import Trie, constrained_greedy, score_answers
from prefixvlm.model.prefix_lm import PrefixLM
from tests.conftest import MeanEncoder, TinyMapper, byte_tokenizer, collator_of, tiny_lm, tiny_model
from tests.model import naive
from tests.model.naive import make_images_count

CAUSAL = ["gpt2", "opt", "gpt_neox", "gptj", "llama", "qwen2", "bloom"]
FAMILIES = [*CAUSAL, "t5", "t5_tied"]


def rows_of(images, targets=False):
    """Images at the beginning, in the middle and at the end of texts of very different lengths."""
    prompts = [
        (images[0], "Q: what? A:"),
        (images[1],),
        ("Look: ", images[2], " and then ", images[3], " so"),
        ("a text that is a lot longer than the others are, and ends with ", images[4]),
        (images[0], "?", images[1]),
    ]
    answers = [" red", "a longer caption", "x", " no", " yes it is"]
    return [Row(p, answer if targets else "") for p, answer in zip(prompts, answers, strict=True)]


@pytest.fixture(params=FAMILIES)
def model(request):
    return make_images_count(tiny_model(request.param))


def end_texts_early(model, batch):
    """Make a frequent token of this random model its EOS, so that texts end at different lengths."""
    generated = decoding.greedy(model, batch, max_new_tokens=10)
    model.lm.eos_id = Counter(token for text in generated for token in text[1:]).most_common(1)[0][0]


def test_generation_in_a_batch_equals_each_row_alone(model, images):
    rows, collate = rows_of(images), collator_of(model)
    batch = collate(rows, supervised=False)
    end_texts_early(model, batch)
    together = decoding.greedy(model, batch, max_new_tokens=10)
    assert together == [naive.greedy(model, row, 10) for row in rows]
    assert len({tuple(text) for text in together}) > 1
    assert decoding.nucleus(model, batch, max_new_tokens=10, top_p=1e-6) == together
    beams = decoding.beam(model, batch, max_new_tokens=10, num_beams=4)
    for row, text in zip(rows, beams, strict=True):
        one = collate([row], supervised=False)
        ids = model.lm.model.generate(
            inputs_embeds=model.inputs_embeds(one), attention_mask=one.attention_mask.long(), max_new_tokens=10,
            num_beams=4, do_sample=False, early_stopping=False, eos_token_id=model.lm.eos_id,
            pad_token_id=model.lm.eos_id,
        )[0].tolist()[model.lm.encodes_prompts:]  # fmt: skip
        assert text == (ids[: ids.index(model.lm.eos_id)] if model.lm.eos_id in ids else ids)


def test_scoring_and_constrained_decoding_equal_a_naive_loop(model, images):
    rows, answers = rows_of(images), [[5, 6, 7], [5], [90, 80], [5, 6, 7, 8, 9, 10]]
    batch = collator_of(model)(rows, supervised=False)
    for row, scores in zip(rows, score_answers(model, batch, answers).tolist(), strict=True):
        assert scores == pytest.approx([naive.log_likelihood(model, row, ids) for ids in answers], abs=1e-3)
    tries = [Trie(answers, model.lm.eos_id) for _ in rows]
    assert constrained_greedy(model, batch, tries) == [naive.constrained_greedy(model, row, answers) for row in rows]


def test_losses_in_a_batch_are_the_log_likelihoods_of_each_row_alone(model, images):
    rows, collate = rows_of(images, targets=True), collator_of(model)
    losses = model(collate(rows))
    ends = (collate(rows).labels != -100).sum(1)
    for row, own in zip(rows, losses.split(ends.tolist()), strict=True):
        torch.testing.assert_close(own, model(collate([row])), atol=1e-4, rtol=1e-4)
        ids = collate([row]).labels[0]
        generated = ids[ids != -100].tolist()[:-1]
        assert own.sum().item() == pytest.approx(-naive.log_likelihood(model, row, generated), abs=1e-3)
    losses.mean().backward()
    assert torch.isfinite(model.mapper.linear.weight.grad).all()
    assert model.mapper.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_too_long_prompt_is_an_error_only_with_limited_positions(family, images):
    model = tiny_model(family)
    collate = collator_of(model, max_positions=model.lm.max_positions)
    row = Row((images[0], "a" * 200, images[1]), "x", "k7")
    if family in ("bloom", "t5", "t5_tied"):
        assert model.lm.max_positions is None
        assert torch.isfinite(model(collate([row]))).all()
    else:
        assert model.lm.max_positions == 96
        with pytest.raises(ValueError, match=r"'k7': the prompt has 206 tokens with its images.*reads 96; set mapper"):
            collate([row])


def test_a_sliding_window_limits_positions_and_generates_the_same_in_a_batch(images):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=257, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=96, sliding_window=90, initializer_range=0.3, bos_token_id=None,
        eos_token_id=256,
    )  # fmt: skip
    lm = CausalLM(MistralForCausalLM(config), byte_tokenizer())
    assert lm.max_positions == lm.window == 90
    model = make_images_count(PrefixLM(MeanEncoder(), TinyMapper(32), lm))
    rows = rows_of(images)
    together = decoding.greedy(model, collator_of(model)(rows, supervised=False), max_new_tokens=10)
    assert together == [naive.greedy(model, row, 10) for row in rows]
    config.sliding_window = None
    assert CausalLM(MistralForCausalLM(config), byte_tokenizer()).max_positions == 96


def test_a_model_that_counts_padding_is_refused():
    config = MptConfig(vocab_size=257, d_model=32, n_layers=2, n_heads=4, eos_token_id=256, bos_token_id=None)
    with pytest.raises(ValueError, match="MptForCausalLM counts the padding between a prompt and its answer"):
        CausalLM(MptForCausalLM(config), byte_tokenizer())


@pytest.mark.parametrize("family", [*CAUSAL, "t5", "bert"])
def test_all_is_frozen_and_states_equal_those_of_each_row_alone(family, images):
    model = tiny_model(family)
    assert not any(p.requires_grad for p in tiny_lm(family).parameters())
    rows, collate = rows_of(images), collator_of(model)
    batch = collate(rows, supervised=False)
    states = model.lm.hidden_at(model.inputs_embeds(batch), batch.attention_mask, batch.attention_mask)
    alone = []
    for row in rows:
        one = collate([row], supervised=False)
        alone.append(model.lm.hidden_at(model.inputs_embeds(one), one.attention_mask, one.attention_mask))
    torch.testing.assert_close(states, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert states.shape[1] == model.lm.state_width
