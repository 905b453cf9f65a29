"""Loading, head and precision of decoder-only language models."""

import pytest
import torch
from PIL import Image
from transformers import CohereConfig, CohereForCausalLM

from prefixvlm.batch import IMAGE_ID, Row
from prefixvlm.data.tokenization import token_ids
from prefixvlm.lm.causal import CausalLM
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.precision import fast_dtype
from tests.conftest import MeanEncoder, TinyMapper, byte_tokenizer, collator_of, tiny_lm


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
@torch.no_grad()
def test_hidden_and_head_give_the_model_s_own_logits(family):
    lm = tiny_lm(family)
    ids = torch.tensor([[1, 5, 9, 200, 7]])
    ours = lm.logits(lm.hidden(lm.embed(ids), torch.ones_like(ids), torch.arange(5)[None]))
    torch.testing.assert_close(ours, lm.model(input_ids=ids).logits)


def test_a_saved_and_loaded_model_is_the_same_in_the_given_precision(tmp_path):
    lm = tiny_lm("gpt2")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    loaded = CausalLM.from_pretrained(str(tmp_path), dtype="float32")
    for (name, a), (_, b) in zip(lm.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert CausalLM.from_pretrained(str(tmp_path), dtype="bfloat16").dtype == torch.bfloat16
    assert CausalLM.from_pretrained(str(tmp_path)).dtype == fast_dtype()
    assert not loaded.training


def test_a_start_token_begins_every_row_and_is_not_repeated_as_bos(tmp_path):
    lm, tokenizer = tiny_lm("gpt2"), byte_tokenizer("<eos> $A")
    lm.model.save_pretrained(tmp_path)
    tokenizer.bos_token = "<eos>"
    tokenizer.save_pretrained(tmp_path)
    plain = CausalLM.from_pretrained(str(tmp_path))
    assert (plain.start_ids, plain.bos_ids) == ([], [256])
    started = CausalLM.from_pretrained(str(tmp_path), start_token="<eos>")
    assert (started.start_ids, started.bos_ids) == ([256], [])
    model = PrefixLM(MeanEncoder(), TinyMapper(started.width), started)
    rows = [Row((Image.new("RGB", (8, 8)), "a"), "b")]
    for supervised, end in ((True, [*token_ids(tokenizer, "b"), 256]), (False, [])):
        (ids,) = collator_of(model)(rows, supervised).input_ids.tolist()
        assert ids == [256, *[IMAGE_ID] * 3, *token_ids(tokenizer, "a"), *end]
    with pytest.raises(ValueError, match="lm.start_token is 'a'; accepted are null and <eos>$"):
        CausalLM.from_pretrained(str(tmp_path), start_token="a")


def test_incomplete_weights_are_an_error(tmp_path):
    lm = tiny_lm("gpt2")
    state = {k: v for k, v in lm.model.state_dict().items() if "h.1.mlp" not in k}
    lm.model.save_pretrained(tmp_path, state_dict=state)
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lack transformer\.h\.1\.mlp"):
        CausalLM.from_pretrained(str(tmp_path))


def test_an_unknown_model_is_an_error_without_a_network():
    with pytest.raises(ValueError, match=r"'no/such-model' is neither a local folder nor .* set lm.name"):
        CausalLM.from_pretrained("no/such-model")


def test_a_model_that_scales_its_logits_is_refused():
    config = CohereConfig(
        vocab_size=257,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        logit_scale=0.1,
    )
    with pytest.raises(ValueError, match="CohereForCausalLM changes its logits after the head"):
        CausalLM(CohereForCausalLM(config), byte_tokenizer())
