"""Counting the n-grams of a tokenized caption."""

from collections import Counter
from itertools import chain
from typing import NamedTuple

MAX_ORDER = 4  # BLEU-4 and CIDEr-D both use n-grams of up to four words

NGram = tuple[str, ...]


class NGrams(NamedTuple):
    """counts: of the n-grams of one to four words."""

    num_words: int
    counts: Counter[NGram]


def count_ngrams(text: str) -> NGrams:
    """Count the n-grams of a text with words separated by white space."""
    words = text.split()
    # zip over shifted lists builds the tuples in C, which matters for the five references of each image.
    orders = (zip(*(words[start:] for start in range(order)), strict=False) for order in range(1, MAX_ORDER + 1))
    return NGrams(len(words), Counter(chain.from_iterable(orders)))
