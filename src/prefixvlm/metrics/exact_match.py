"""Predictions and their references go in; the share of predictions that equal a reference comes out, in percent."""

from collections.abc import Sequence

from prefixvlm.metrics.captions.words import unspaced
from prefixvlm.metrics.pairs import References, check_lists


def normalise(text: str) -> str:
    """Lower case, single spaces and none between letters of scripts without them, without one final full stop."""
    return unspaced(" ".join(text.lower().split()).removesuffix(".").rstrip())


def exact_matches(predictions: Sequence[str], references: References) -> list[bool]:
    """For each prediction, whether it equals any of its references after `normalise` on both sides."""
    check_lists(predictions, references)
    return [
        normalise(prediction) in {normalise(truth) for truth in truths}
        for prediction, truths in zip(predictions, references, strict=True)
    ]


def exact_match(predictions: Sequence[str], references: References) -> float:
    """The percentage of `exact_matches`."""
    matches = exact_matches(predictions, references)
    return 100.0 * sum(matches) / len(matches)
