"""Answers and their references go in; accuracy comes out, always with the name of its variant.

Here: questions with one true answer (or several that are equally true). The official score over ten human answers is
another variant, with another normalisation; their figures do not compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prefixvlm.metrics.pairs import References, check_lists

EXACT_MATCH = "exact_match_normalised"

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBERS)}
_PUNCTUATION = ".,;:!?\"'`()[]{}"


@dataclass(frozen=True)
class VqaAccuracy:
    """All in percent. per_item: 0 or 100 for each answer."""

    overall: float
    per_item: list[float]
    variant: str


def normalise_answer(text: str) -> str:
    """Lower case, without punctuation around words and without articles, number words as digits.

    Words that are nothing but an article or a sign stay if no other word is left: "a" is the answer to "which letter?".
    """
    words = [_DIGITS.get(bare, bare) for word in text.lower().split() if (bare := word.strip(_PUNCTUATION))]
    return " ".join([word for word in words if word not in _ARTICLES] or words or text.lower().split())


def vqa_accuracy(predictions: Sequence[str], references: References) -> VqaAccuracy:
    """Exact match with any reference after `normalise_answer` on both sides."""
    check_lists(predictions, references)
    scores = [
        100.0 * (normalise_answer(prediction) in {normalise_answer(truth) for truth in truths})
        for prediction, truths in zip(predictions, references, strict=True)
    ]
    return VqaAccuracy(sum(scores) / len(scores), scores, EXACT_MATCH)
