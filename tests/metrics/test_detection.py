"""Compare COCO's mean average precision with a loop that follows its definition."""

import random

import pytest

from prefixvlm.metrics.detection import mean_average_precision

CLASSES = ["circle", "square"]


def iou(one, other):
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def average_precision(predicted, true, label, threshold):
    """Average the best precision from each of 101 points of recall on."""
    ranked = sorted(((confidence, image, edges) for image, boxes in enumerate(predicted)
                     for name, edges, confidence in boxes if name == label), key=lambda each: -each[0])  # fmt: skip
    unmatched = [[edges for name, edges in boxes if name == label] for boxes in true]
    total = sum(map(len, unmatched))
    curve, correct = [], 0
    for number, (_, image, edges) in enumerate(ranked, 1):
        best = max(unmatched[image], key=lambda each: iou(edges, each), default=None)
        if best is not None and iou(edges, best) >= threshold:
            unmatched[image].remove(best)
            correct += 1
        curve.append((correct / total, correct / number))
    points = [place / 100 for place in range(101)]
    return sum(max((p for r, p in curve if r >= point), default=0.0) for point in points) / 101


def random_box(rng):
    x, y = rng.uniform(0, 0.6), rng.uniform(0, 0.6)
    return x, y, x + rng.uniform(0.1, 0.4), y + rng.uniform(0.1, 0.4)


@pytest.mark.parametrize("seed", range(4))
def test_map_is_the_mean_over_classes_and_thresholds(seed):
    rng = random.Random(seed)
    true = [[(rng.choice(CLASSES), random_box(rng)) for _ in range(rng.randrange(4))] for _ in range(12)]
    true[0], true[1] = [("circle", random_box(rng))], [("square", random_box(rng))]
    predicted = [
        [(label, tuple(min(1.0, max(0.0, edge + rng.gauss(0, 0.02))) for edge in edges), rng.random())
         for label, edges in boxes if rng.random() < 0.8]
        + [(rng.choice(CLASSES), random_box(rng), rng.random())] * (rng.random() < 0.5)
        for boxes in true
    ]  # fmt: skip
    found = mean_average_precision(predicted, true, CLASSES)
    for name, thresholds in (("map_50", [0.5]), ("map_75", [0.75]), ("map", [0.5 + 0.05 * n for n in range(10)])):
        each = [average_precision(predicted, true, label, t) for label in CLASSES for t in thresholds]
        assert found[name] == pytest.approx(100 * sum(each) / len(each), abs=0.05)
    for label in CLASSES:
        each = [average_precision(predicted, true, label, 0.5 + 0.05 * n) for n in range(10)]
        assert found[f"map_{label}"] == pytest.approx(100 * sum(each) / 10, abs=0.05)


def test_a_class_without_a_true_box_has_no_score():
    box = ("circle", (0.1, 0.1, 0.5, 0.5))
    found = mean_average_precision([[(*box, 0.9), ("square", box[1], 0.8)]], [[box]], CLASSES)
    assert found["map_circle"] == pytest.approx(100)
    assert "map_square" not in found
