"""Nearest tokens against the cosines with the whole embedding matrix."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from prefixvlm.lm.nearest_tokens import nearest_tokens, token_norms
from tests.conftest import tiny_lm


@pytest.mark.parametrize("chunk", [7, 100, 10_000])
def test_the_nearest_tokens_are_those_of_all_cosines(monkeypatch, chunk):
    lm = tiny_lm("gpt2")
    monkeypatch.setattr("prefixvlm.lm.nearest_tokens.CHUNK", chunk)
    vectors = torch.randn(2, 3, lm.width, generator=torch.Generator().manual_seed(0))
    ids, cosines = nearest_tokens(lm, vectors, 9)
    weight = lm.model.get_input_embeddings().weight
    whole = cosine_similarity(vectors[:, :, None].double(), weight.double(), dim=-1)
    expected, places = whole.topk(9)
    assert torch.equal(ids, places)
    torch.testing.assert_close(cosines, expected.float())
    torch.testing.assert_close(token_norms(lm), weight.norm(dim=1).detach())


def test_rows_beyond_the_vocabulary_are_no_tokens():
    lm = tiny_lm("gpt2")
    lm.model.resize_token_embeddings(len(lm.tokenizer) + 8, mean_resizing=False)
    last = lm.model.get_input_embeddings().weight[-1].detach()
    ids, _ = nearest_tokens(lm, last[None], 3)
    assert ids.max() < len(lm.tokenizer)
    assert len(token_norms(lm)) == len(lm.tokenizer)
