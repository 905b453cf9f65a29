"""Decoding against transformers' own generate and against naive loops without a cache."""

from collections import Counter

import pytest

from prefixvlm.batch import Row
from prefixvlm.model import decoding
from tests.conftest import collator_of
from tests.model import naive


def rows_of(images):
    questions = ["Q: a?", "Q: what is it, then? A:", "", "Q: b?", "colour"]
    rows = [Row(prompt=(image, question)) for image, question in zip(images, questions, strict=True)]
    return [*rows, Row(prompt=(images[0], "again")), Row(prompt=(images[1], "Few:", images[2], " shots"))]


def test_greedy_in_a_batch_equals_each_row_alone_without_a_cache(model, images):
    collate = collator_of(model)
    rows = rows_of(images)
    together = decoding.greedy(model, collate(rows, supervised=False), max_new_tokens=12)
    alone = [naive.greedy(model, row, 12) for row in rows]
    assert together == alone
    assert len({tuple(text) for text in together}) > 1


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beam_equals_transformers_generate(model, images, length_penalty):
    collate = collator_of(model)
    rows = rows_of(images)
    # A frequent token of this random model serves as EOS, so that beams end at different lengths.
    generated = decoding.greedy(model, collate(rows, supervised=False), max_new_tokens=10)
    model.lm.eos_id = Counter(token for text in generated for token in text[2:]).most_common(1)[0][0]
    ours = decoding.beam(
        model, collate(rows, supervised=False), max_new_tokens=10, num_beams=4, length_penalty=length_penalty
    )
    for row, text in zip(rows, ours, strict=True):
        batch = collate([row], supervised=False)
        ids = model.lm.model.generate(
            inputs_embeds=model.inputs_embeds(batch), attention_mask=batch.attention_mask.long(),
            max_new_tokens=10, num_beams=4, do_sample=False, length_penalty=length_penalty, early_stopping=False,
            eos_token_id=model.lm.eos_id, pad_token_id=model.lm.eos_id,
        )[0].tolist()  # fmt: skip
        assert text == (ids[: ids.index(model.lm.eos_id)] if model.lm.eos_id in ids else ids)
    assert length_penalty > 0 or min(map(len, ours)) < 10  # a penalty of 0 favours short texts


def test_the_prefix_of_an_image_is_computed_once_for_its_questions(model, images):
    collate = collator_of(model)
    rows = [Row(prompt=(images[i % 2], f"question {i} " * (i + 1))) for i in range(6)]
    batch = collate(rows, supervised=False)
    assert len(batch.pixel_values) == 2
    read = []
    model.lm.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    together = decoding.greedy(model, batch, max_new_tokens=5)
    assert read[0] == (2, 3)  # two images, three prefix embeddings: once each, not once a row
    assert together == [decoding.greedy(model, collate([row], supervised=False), max_new_tokens=5)[0] for row in rows]


def test_beam_of_one_is_greedy(model, images):
    batch = collator_of(model)(rows_of(images), supervised=False)
    assert decoding.beam(model, batch, num_beams=1, max_new_tokens=8) == decoding.greedy(model, batch, max_new_tokens=8)


def test_nucleus_samples_only_from_the_nucleus_and_in_proportion(model, images):
    batch = collator_of(model)([Row(prompt=(images[0], "Q"))], supervised=False)
    p = naive.next_logits(model, naive.embeds_of(model, Row(prompt=(images[0], "Q")))).softmax(-1)
    order = p.argsort(descending=True)
    size = int((p[order].cumsum(0) < 0.7).sum()) + 1
    nucleus = set(order[:size].tolist())
    samples = decoding.nucleus(model, batch, max_new_tokens=1, top_p=0.7, num_samples=4000)
    first = [text[0] if text else model.lm.eos_id for text in samples]
    assert set(first) <= nucleus
    assert int(order[size - 1]) in first  # the token that reaches top_p belongs to it
    share = first.count(int(order[0])) / len(first)
    assert share == pytest.approx(float(p[order[0]] / p[order[:size]].sum()), abs=0.04)
    again = decoding.nucleus(model, batch, max_new_tokens=1, top_p=0.7, num_samples=4000)
    assert again == samples
    assert decoding.nucleus(model, batch, max_new_tokens=1, top_p=0.7, num_samples=4000, seed=1) != samples
