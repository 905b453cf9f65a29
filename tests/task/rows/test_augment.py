"""Random crops and reflections of training images."""

import random
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from prefixvlm.data.sample import BLACK_IMAGE, Sample, decode
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.detection import Detection
from prefixvlm.task.rows.augment import Augment
from prefixvlm.task.rows.loader_rows import TrainingRows
from tests.conftest import collator_of, tiny_model

# Each pixel has its own column in red and its own row in green.
COLUMNS, ROWS = np.meshgrid(np.arange(60), np.arange(40))
IMAGE = Image.fromarray(np.stack([COLUMNS, ROWS, 0 * ROWS], -1).astype(np.uint8))


def pieces(augment, number=300):
    for seed in range(number):
        pixels = np.asarray(augment(Sample("k", IMAGE), random.Random(seed)).image).astype(int)
        yield pixels[..., 0], pixels[..., 1]


def test_a_crop_is_a_rectangle_of_the_image_and_reaches_all_of_it():
    widths, heights, lefts = set(), set(), set()
    for columns, rows in pieces(Augment(crop=0.25)):
        height, width = rows.shape
        assert np.array_equal(columns, np.broadcast_to(np.arange(columns[0, 0], columns[0, 0] + width), rows.shape))
        assert np.array_equal(rows.T, np.broadcast_to(np.arange(rows[0, 0], rows[0, 0] + height), rows.T.shape))
        widths.add(width), heights.add(height), lefts.add(columns[0, 0])
    assert (min(widths), max(widths), min(heights), max(heights)) == (30, 60, 30, 40)
    assert min(lefts) == 0
    assert max(lefts) > 25


def test_flips_are_as_frequent_as_asked_and_leave_rows_in_place():
    flipped = [columns[0, 0] == 59 for columns, rows in pieces(Augment(flip=0.25)) if np.array_equal(rows, ROWS)]
    assert len(flipped) == 300
    assert 0.15 < np.mean(flipped) < 0.35


def test_without_it_a_sample_is_the_same_and_draws_nothing():
    rng, sample = random.Random(0), Sample("k", IMAGE)
    assert Augment()(sample, rng) is sample
    assert rng.random() == random.Random(0).random()
    assert not Augment()


def test_fields_of_a_shard_that_no_task_reads_stay_unread():
    members = {"png": (file := BytesIO(), BLACK_IMAGE.save(file, "PNG"))[0].getvalue()}
    sample = decode("k", members | {"json": b'{"captions": ["a"], "boxes": "something else"}'}, "x.tar")
    assert Augment(crop=0.5)(sample, random.Random(0)).captions == ("a",)


def test_training_images_are_changed_by_step_and_validation_images_are_not():
    collate = collator_of(tiny_model("gpt2"))
    augment, samples = Augment(crop=0.5, flip=0.5), [Sample("a", IMAGE, captions=("x",))]
    train = TrainingRows({"captioning": Captioning()}, collate, augment=augment)
    val = TrainingRows({"captioning": Captioning()}, collate, mixed=True)
    plain = val(samples, random.Random(0))[0].pixel_values
    seen = [train(samples, random.Random(seed)).pixel_values for seed in (0, 0, 1)]
    assert seen[0].equal(seen[1])
    assert not seen[0].equal(seen[2])
    assert not seen[0].equal(plain)


def test_what_it_would_spoil_is_refused():
    with pytest.raises(ValueError, match=r"module\.random_crop is 1"):
        Augment(crop=1)
    with pytest.raises(ValueError, match=r"module\.random_flip is 2"):
        Augment(flip=2)
    with pytest.raises(ValueError, match=r"move the objects whose boxes task detection learns; set both to 0"):
        Augment(flip=0.5).check(False, [Captioning(), Detection(["cat"])])
    with pytest.raises(ValueError, match="the shards hold features; set both to 0"):
        Augment(crop=0.5).check(True, [])
    Augment().check(True, [Detection(["cat"])])
