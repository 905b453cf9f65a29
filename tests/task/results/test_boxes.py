"""Boxes as text: what is written is read back, small ones are not lost, overlaps are areas that a grid counts."""

import random

import pytest
import torch

from prefixvlm.batch import IGNORE_INDEX
from prefixvlm.data.sample import BLACK_IMAGE, Sample
from prefixvlm.data.schema import Box
from prefixvlm.task.detection import Detection
from prefixvlm.task.results.boxes import Locations, box_iou, format_box, parse_boxes
from tests.conftest import collator_of, tiny_model


def drawn(rng, largest):
    x0, y0 = rng.uniform(0, 1 - largest), rng.uniform(0, 1 - largest)
    return Box("a thing", x0, y0, x0 + rng.uniform(1e-3, largest), y0 + rng.uniform(1e-3, largest))


@pytest.mark.parametrize("bins", [2, 10, 100, 1000])
def test_what_is_said_is_at_most_half_a_bin_away_or_one_bin_wide(bins):
    rng, locations = random.Random(bins), Locations(bins, "task.detection")
    for _ in range(300):
        box = drawn(rng, rng.choice([0.01, 0.3]))
        said = locations.box(f" a thing{locations.text(box)}")
        assert said is not None
        assert said.label == "a thing"
        for low, high, said_low, said_high in ((box.x0, box.x1, said.x0, said.x1), (box.y0, box.y1, said.y0, said.y1)):
            if round(low * (bins - 1)) < round(high * (bins - 1)):
                assert abs(said_low - low) <= 0.5 / (bins - 1) + 1e-9
                assert abs(said_high - high) <= 0.5 / (bins - 1) + 1e-9
            else:
                assert said_high - said_low == pytest.approx(1 / (bins - 1))
                assert said_low <= (low + high) / 2 + 1e-9
                assert (low + high) / 2 <= said_high + 1e-9


def test_edges_that_leave_nothing_are_no_box():
    assert Locations(100, "x").box(" circle 50 10 50 20") is None


def test_written_boxes_are_read_back():
    boxes = [Box("a thing", 0.25, 0.5, 0.75, 1.0), Box("", 0.0, 0.0, 0.5, 0.5)]
    assert parse_boxes("; ".join(format_box(box, 0.5) for box in boxes), confidences=True) == [
        (box, 0.5) for box in boxes
    ]
    assert parse_boxes(format_box(boxes[0])) == [(boxes[0], 1.0)]
    assert parse_boxes("") == []


def test_overlap_is_what_a_grid_counts():
    rng = random.Random(0)
    middles = (torch.arange(1000) + 0.5) / 1000

    def inside(box):
        across, down = (middles > box.x0) & (middles < box.x1), (middles > box.y0) & (middles < box.y1)
        return down[:, None] & across[None]

    for _ in range(20):
        a, b = drawn(rng, 0.8), drawn(rng, 0.8)
        one, other = inside(a), inside(b)
        assert box_iou(a, b) == pytest.approx(((one & other).sum() / (one | other).sum()).item(), abs=0.01)


def test_boxes_come_in_any_order_and_none_is_an_end():
    task = Detection(["a", "b", "c"], prompt="Things:", max_boxes=2, bins=10)
    boxes = tuple(Box(label, 0.1, 0.2, 0.5, 0.9) for label in "abc")
    rng = random.Random(0)
    said = {task.training_rows(Sample("k", BLACK_IMAGE, boxes=boxes), rng)[0].target for _ in range(200)}
    assert said == {f" {a} 1 2 4 8; {b} 1 2 4 8" for a in "abc" for b in "abc" if a != b}
    nothing, unknown = Sample("k", BLACK_IMAGE, boxes=()), Sample("k", BLACK_IMAGE)
    assert task.training_rows(unknown, rng) == []
    assert [row.references for row in task.prompt_rows(unknown) + task.prompt_rows(nothing)] == [(), ("",)]
    model = tiny_model("gpt2")
    batch = collator_of(model)(task.training_rows(nothing, rng))
    assert batch.labels[batch.labels != IGNORE_INDEX].tolist() == [model.lm.eos_id]
    assert task.correct("", [""]) == 1
    assert task.correct("a 0.1000 0.2000 0.4000 0.8000 0.9000", [""]) == 0


def test_f1_of_an_image_takes_each_truth_once_the_surest_first():
    task = Detection(["a", "b"])
    truth = "a 0.0000 0.0000 0.5000 0.5000; b 0.5000 0.5000 1.0000 1.0000"
    twice = "a 0.0000 0.0000 0.5000 0.5000 0.9000; a 0.0100 0.0000 0.5000 0.5000 0.8000"
    assert task.correct(twice, [truth]) == pytest.approx(2 * 1 / (2 + 2))
    other = "b 0.0000 0.0000 0.5000 0.5000 0.9000"  # the right place, another label
    assert task.correct(other, [truth]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["a", "b  c"]}, "has 'b  c'; a label has no ';', ends in no digit, and has single spaces"),
        ({"classes": ["a", " b"]}, "single spaces"),
        ({"classes": ["a", "b2"]}, "ends in no digit"),
        ({"classes": ["a", ""]}, "classes has ''"),
        ({"classes": ["a", "b"], "max_boxes": 0}, "max_boxes is 0"),
        ({"classes": ["a", "b"], "bins": 1}, "bins is 1"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Detection(**options)


def test_one_class_is_enough():
    task = Detection(["a"], prompt="Things:", bins=10)
    model = tiny_model("gpt2")
    batch = collator_of(model)(task.prompt_rows(Sample("k", BLACK_IMAGE)), supervised=False)
    assert all(box.label == "a" for box, _ in parse_boxes(task.predict(model, batch)[0].prediction, confidences=True))


def test_more_boxes_than_a_target_has_room_for_are_refused_before_training():
    task = Detection(["a", "b"], max_boxes=9)
    with pytest.raises(ValueError, match=r"9 boxes take up to \d+ tokens; module.max_target_length is 40: set task.de"):
        task.check(tiny_model("gpt2").lm, 40)
    task.check(tiny_model("gpt2").lm, None)
