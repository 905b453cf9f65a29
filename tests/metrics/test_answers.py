"""Exact match and VQA accuracy on hand-made cases."""

import pytest

from prefixvlm.metrics.exact_match import exact_match, exact_matches
from prefixvlm.metrics.vqa_accuracy import normalise_answer, vqa_accuracy


def test_exact_match_takes_any_reference() -> None:
    predictions = ["A  red\ncircle.", "a red circle", "", "red", "a b."]
    references = [["a red circle"], ["a blue circle", "A red circle. "], ["circle"], ["a red"], ["a b.."]]
    assert exact_matches(predictions, references) == [True, True, False, False, False]
    assert exact_match(predictions, references) == 40.0


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], [], "1 predictions but 0"),
        ([], [], "no predictions"),
        (["a"], [[]], "item 0 has no reference"),
        (["a"], ["a"], "one string"),
    ],
)
@pytest.mark.parametrize("metric", [exact_match, vqa_accuracy])
def test_lists_must_match(metric, predictions, references, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        metric(predictions, references)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" The  Red circle.", "red circle"),
        ("two dogs!", "2 dogs"),
        ("a", "a"),
        ("an A", "an a"),
        ("?", "?"),
        ("", ""),
        ("it's 3.5", "it's 3.5"),
        ("Über-Café", "über-café"),
    ],
)
def test_normalise_answer(text: str, answer: str) -> None:
    assert normalise_answer(text) == answer


def test_vqa_accuracy_takes_any_reference() -> None:
    result = vqa_accuracy(["Yes.", "red", "", "two"], [["yes"], ["blue"], ["no"], ["2", "3"]])
    assert (result.overall, result.per_item) == (50.0, [100.0, 0.0, 0.0, 100.0])
    assert result.variant == "exact_match_normalised"
