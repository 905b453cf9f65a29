"""Diversity of captions, by hand."""

import pytest

from prefixvlm.metrics.captions.diversity import diversity


def test_figures_by_hand() -> None:
    figures = diversity(["A dog runs.", "a dog runs", "A cat isn't here", "a dog"])
    assert figures == {
        "distinct_captions": 75.0,
        "most_frequent_share": 50.0,
        "vocabulary": 7.0,  # a, dog, runs, cat, is, n't, here
        "mean_length": (3 + 3 + 5 + 2) / 4,
    }


def test_mode_collapse() -> None:
    figures = diversity(["a dog"] * 50)
    assert (figures["distinct_captions"], figures["most_frequent_share"]) == (2.0, 100.0)
    assert diversity(["", "a"])["mean_length"] == 0.5


@pytest.mark.parametrize("predictions", [[], "a dog"])
def test_anything_but_a_list_of_captions_is_an_error(predictions) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="at least one caption"):
        diversity(predictions)
