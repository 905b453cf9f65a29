"""Exact match of predictions and references."""

from collections.abc import Sequence

from prefixvlm.metrics.captions.words import unspaced
from prefixvlm.metrics.pairs import References, check_lists


def normalise(text: str) -> str:
    """Return text in lower case, with single spaces and without one final full stop.

    Spaces between letters of scripts that are written without spaces are removed.
    """
    return unspaced(" ".join(text.lower().split()).removesuffix(".").rstrip())


def exact_matches(predictions: Sequence[str], references: References) -> list[bool]:
    """Return for each prediction whether it equals any of its references, both after `normalise`."""
    check_lists(predictions, references)
    return [
        normalise(prediction) in {normalise(truth) for truth in truths}
        for prediction, truths in zip(predictions, references, strict=True)
    ]


def exact_match(predictions: Sequence[str], references: References) -> float:
    """Return the percentage of exact matches."""
    matches = exact_matches(predictions, references)
    return 100.0 * sum(matches) / len(matches)
