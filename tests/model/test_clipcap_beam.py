"""ClipCap's beam search against a naive loop with one row, no cache and texts as lists."""

from collections import Counter

import pytest
import torch

from prefixvlm.batch import Row
from prefixvlm.model import decoding
from prefixvlm.model.clipcap_beam import clipcap_beam
from tests.conftest import collator_of, tiny_model
from tests.model import naive
from tests.model.test_decoding import rows_of


@pytest.fixture(params=["gpt2", "llama", "t5"])
def model(request):
    return tiny_model(request.param)


@torch.no_grad()
def naive_beam(model, row, max_new_tokens, size):
    """All texts compete by their mean log-probability; an ended one is a candidate as it is."""
    prompt, eos = naive.embeds_of(model, row), model.lm.eos_id
    beams = [([], 0.0)]
    for _ in range(max_new_tokens):
        candidates = []
        for ids, total in beams:
            if ids[-1:] == [eos]:
                candidates.append((ids, total))
                continue
            log_p = naive.next_logits(model, prompt, ids).log_softmax(-1).tolist()
            candidates += [([*ids, token], total + value) for token, value in enumerate(log_p)]
        beams = sorted(candidates, key=lambda candidate: -candidate[1] / len(candidate[0]))[:size]
        if all(ids[-1] == eos for ids, _ in beams):
            break
    return [token for token in beams[0][0] if token != eos]


@pytest.mark.parametrize(("size", "max_new_tokens"), [(1, 8), (3, 8), (5, 1), (5, 2), (5, 12)])
def test_a_batch_equals_each_row_alone(model, images, size, max_new_tokens):
    collate, rows = collator_of(model), rows_of(images)
    # A frequent token of this random model serves as EOS, so that texts end at different lengths.
    generated = decoding.greedy(model, collate(rows, supervised=False), max_new_tokens=10)
    model.lm.eos_id = Counter(token for text in generated for token in text[2:]).most_common(1)[0][0]
    together = clipcap_beam(model, collate(rows, supervised=False), max_new_tokens, size)
    assert together == [naive_beam(model, row, max_new_tokens, size) for row in rows]
    if max_new_tokens > 2:
        assert len({len(text) for text in together}) > 1


def test_a_beam_of_one_is_greedy(model, images):
    batch = collator_of(model)(rows_of(images), supervised=False)
    assert clipcap_beam(model, batch, 8, 1) == decoding.greedy(model, batch, 8)


def test_more_beams_than_tokens(model, images):
    row = Row(prompt=(images[0], "Q"))
    size = model.lm.model.config.vocab_size + 5
    assert clipcap_beam(model, collator_of(model)([row], supervised=False), 2, size) == [
        naive_beam(model, row, 2, size)
    ]
