"""GQA's two exact matches on hand-made cases."""

import pytest

from prefixvlm.metrics.vqa.gqa import gqa_normalised, gqa_strict


@pytest.mark.parametrize(
    ("prediction", "answer", "strict", "normalised"),
    [
        ("no", "no", 1, 1),
        ("No", "no", 0, 1),
        ("no.", "no", 0, 1),
        ("the traffic light", "traffic light", 0, 1),
        ("t-shirt", "t-shirt", 1, 1),
        ("t shirt", "t-shirt", 0, 1),
        ("no, it is not", "no", 0, 0),
        ("traffic", "traffic light", 0, 0),
    ],
)
def test_exact_matches(prediction: str, answer: str, strict: float, normalised: float) -> None:
    assert gqa_strict(prediction, [answer]) == strict
    assert gqa_normalised(prediction, [answer]) == normalised
