"""A tokenised caption (words split by white space) goes in; how often each of its n-grams occurs comes out."""

from collections import Counter
from itertools import chain
from typing import NamedTuple

MAX_ORDER = 4  # BLEU-4 and CIDEr-D both stop at four words

NGram = tuple[str, ...]


class NGrams(NamedTuple):
    num_words: int
    counts: Counter[NGram]  # of one to four words


def count_ngrams(text: str) -> NGrams:
    words = text.split()
    orders = (zip(*(words[start:] for start in range(order)), strict=False) for order in range(1, MAX_ORDER + 1))
    return NGrams(len(words), Counter(chain.from_iterable(orders)))
