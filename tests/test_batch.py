"""Batch.of: rows in any order have the same results as each alone."""

import pytest
import torch
from PIL import Image

from prefixvlm.batch import IGNORE_INDEX, Row
from prefixvlm.model.constrained import score_answers
from prefixvlm.model.decoding import greedy
from tests.conftest import collator_of
from tests.model import naive

ORDERS = [[4, 2, 0], [3], [1, 4], [6, 5, 4, 3, 2, 1, 0], [2, 2, 0, 2], [4], [0, 1, 2, 3, 4, 5, 6]]


def rows_of(images):
    """Return rows with no image, one, two and three, with shared images, and with one image twice."""
    return [
        Row((images[0], "a?"), " yes"),
        Row((images[1], "and then ", images[0], " what? A:"), " a longer target"),
        Row((images[2], "b?"), " no"),
        Row((images[3], "c", images[3], "d", images[1], "e"), " three"),
        Row(("only text, no image",), " of course"),
        Row(("text, then ", images[4], "f"), " g"),
        Row((images[0], ""), "h"),
    ]


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_reordered_rows_have_the_losses_of_each_alone(model, images, order):
    naive.make_images_count(model)
    collate, rows = collator_of(model), rows_of(images)
    batch = collate(rows)
    losses = model(batch).split((batch.labels != IGNORE_INDEX).sum(1).tolist())
    torch.testing.assert_close(model(batch.of(order)), torch.cat([losses[i] for i in order]), atol=1e-4, rtol=1e-4)
    for i in {*order} - {4}:  # a batch of row 4 alone has no image, and is not collated
        torch.testing.assert_close(losses[i], model(collate([rows[i]])), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_reordered_rows_generate_and_score_as_in_the_whole_batch(model, images, order):
    naive.make_images_count(model)
    batch = collator_of(model)(rows_of(images), supervised=False)
    answers = [model.lm.tokenizer(text).input_ids for text in ("yes", "no", "a longer one")]
    generated, scores = greedy(model, batch, 6), score_answers(model, batch, answers)
    chosen = batch.of(order)
    assert greedy(model, chosen, 6) == [generated[i] for i in order]
    torch.testing.assert_close(score_answers(model, chosen, answers), scores[order], atol=1e-3, rtol=1e-4)
    assert chosen.rows == [batch.rows[i] for i in order]


@pytest.mark.parametrize("order", ORDERS)
def test_chosen_rows_have_only_their_own_images_and_no_needless_padding(model, images, order):
    rows = rows_of(images)
    batch = collator_of(model)(rows)
    chosen = batch.of(order)
    used = {id(part) for i in order for part in rows[i].parts if isinstance(part, Image.Image)}
    assert len(chosen.pixel_values) == len(used)
    assert chosen.input_ids.shape == (len(order), int(batch.attention_mask[order].sum(1).max()))
    assert chosen.attention_mask.any(0).all()
