"""Rows of a batch, taken out of it in any order, read as they do alone."""

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
    """No image, one, two and three; images of several rows; one image twice in a row."""
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
def test_rows_in_another_order_have_the_losses_of_each_alone(model, images, order):
    naive.make_images_count(model)
    collate, rows = collator_of(model), rows_of(images)
    batch = collate(rows)
    losses = model(batch).split((batch.labels != IGNORE_INDEX).sum(1).tolist())
    torch.testing.assert_close(model(batch.of(order)), torch.cat([losses[i] for i in order]), atol=1e-4, rtol=1e-4)
    for i in {*order} - {4}:  # a batch of row 4 alone has no image, and is not collated
        torch.testing.assert_close(losses[i], model(collate([rows[i]])), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_in_another_order_say_and_rank_what_each_does_in_the_whole(model, images, order):
    naive.make_images_count(model)
    batch = collator_of(model)(rows_of(images), supervised=False)
    answers = [model.lm.tokenizer(text).input_ids for text in ("yes", "no", "a longer one")]
    said, scores = greedy(model, batch, 6), score_answers(model, batch, answers)
    chosen = batch.of(order)
    assert greedy(model, chosen, 6) == [said[i] for i in order]
    torch.testing.assert_close(score_answers(model, chosen, answers), scores[order], atol=1e-3, rtol=1e-4)
    assert chosen.rows == [batch.rows[i] for i in order]


@pytest.mark.parametrize("order", ORDERS)
def test_rows_come_with_their_own_images_once_each_and_no_wider_than_they_are(model, images, order):
    rows = rows_of(images)
    batch = collator_of(model)(rows)
    chosen = batch.of(order)
    used = {id(part) for i in order for part in rows[i].parts if isinstance(part, Image.Image)}
    assert len(chosen.pixel_values) == len(used)
    assert chosen.input_ids.shape == (len(order), int(batch.attention_mask[order].sum(1).max()))
    assert chosen.attention_mask.any(0).all()
