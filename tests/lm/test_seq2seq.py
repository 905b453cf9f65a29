"""Encoder-decoders: supervision, caching of prompts, and heads."""

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from prefixvlm.batch import IGNORE_INDEX, AssistantTurn, Row
from prefixvlm.lm.seq2seq import Seq2SeqLM
from prefixvlm.model import decoding
from prefixvlm.model.constrained import score_answers
from prefixvlm.model.prefix_lm import PrefixLM
from tests.conftest import MeanEncoder, TinyMapper, byte_tokenizer, collator_of, tiny_lm, tiny_model
from tests.lm.test_families import rows_of
from tests.model import naive


@pytest.mark.parametrize("family", ["t5", "t5_tied"])
@torch.no_grad()
def test_losses_equal_transformers_own_with_labels(family, images):
    model = tiny_model(family)
    for row in rows_of(images, targets=True):
        batch = collator_of(model)([row])
        labels = batch.labels[batch.labels != IGNORE_INDEX][None]
        prompt = model.inputs_embeds(batch)[:, : -labels.shape[1]]
        assert batch.input_ids[0, prompt.shape[1] - 1] == model.lm.eos_id  # T5 ends the encoder's text with EOS
        assert labels[0, -1] == model.lm.eos_id
        loss = model.lm.model(inputs_embeds=prompt, labels=labels).loss
        torch.testing.assert_close(model(batch).mean(), loss)


def test_tied_and_untied_heads_survive_saving_and_loading(tmp_path):
    for family in ("t5", "t5_tied"):
        lm = tiny_lm(family)
        lm.model.save_pretrained(tmp_path / family)
        lm.tokenizer.save_pretrained(tmp_path / family)
        loaded = Seq2SeqLM.from_pretrained(str(tmp_path / family), dtype="float32")
        hidden = torch.randn(3, lm.width)
        torch.testing.assert_close(loaded.logits(hidden), lm.logits(hidden))
        assert loaded.scale == (lm.width**-0.5 if family == "t5_tied" else 1)
        assert (loaded.end_ids, loaded.start_ids, loaded.bos_ids) == ([256], [], [])


def test_prompts_are_encoded_once_for_all_decoding_steps(images):
    model = tiny_model("t5")
    rows, read = rows_of(images), []
    batch = collator_of(model)(rows, supervised=False)
    model.lm.model.encoder.register_forward_hook(lambda module, args, output: read.append(len(rows)))
    keys = model.lm.model.decoder.block[0].layer[1].EncDecAttention.k
    keys.register_forward_hook(lambda module, args, output: read.append(len(output)))
    for say in (
        lambda: decoding.beam(model, batch, 6, num_beams=3),
        lambda: score_answers(model, batch, [[5], [6, 7]]),
        lambda: decoding.nucleus(model, batch, 6, num_samples=4),
    ):
        read.clear()
        say()
        assert read == [len(rows), len(rows)]


def test_a_row_without_a_target_leaves_the_others_gradients_finite(images):
    model = tiny_model("t5")
    rows = rows_of(images, targets=True)
    batch = collator_of(model)([*rows, Row((images[0], "without a target"))])
    losses = model(batch)
    torch.testing.assert_close(losses, model(collator_of(model)(rows)), atol=1e-4, rtol=1e-4)
    losses.mean().backward()
    assert torch.isfinite(model.mapper.linear.weight.grad).all()


def test_supervised_turns_before_the_end_are_an_error(images):
    model = tiny_model("t5")
    row = Row((images[0], "Q", AssistantTurn(" a"), "Q"), " b")
    with pytest.raises(ValueError, match="T5ForConditionalGeneration reads .* supervised turns in its middle; set lm"):
        model(collator_of(model)([row]))


@pytest.mark.parametrize("kind", ["deeper decoder", "bart"])
def test_other_encoder_decoders_generate_as_in_a_naive_loop(images, kind):
    torch.manual_seed(0)
    size = {"vocab_size": 257, "eos_token_id": 256, "pad_token_id": 256, "bos_token_id": 256}
    if kind == "bart":
        config = BartConfig(
            d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=96, init_std=0.3, scale_embedding=True,
            decoder_start_token_id=7, **size,
        )  # fmt: skip
        lm = Seq2SeqLM(BartForConditionalGeneration(config), byte_tokenizer("<eos> $A <eos>"))
    else:
        config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=3, num_heads=4, **size)
        lm = Seq2SeqLM(T5ForConditionalGeneration(config), byte_tokenizer("$A <eos>"))
    model = naive.make_images_count(PrefixLM(MeanEncoder(), TinyMapper(32), lm))
    rows = rows_of(images)
    together = decoding.greedy(model, collator_of(model)(rows, supervised=False), max_new_tokens=8)
    assert together == [naive.greedy(model, row, 8) for row in rows]
