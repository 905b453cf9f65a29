"""A tokenised caption (words split by white space) goes in; how often each of its n-grams occurs comes out."""

from collections import Counter

MAX_ORDER = 4  # BLEU-4 and CIDEr-D both stop at four words

NGram = tuple[str, ...]


def count_ngrams(text: str) -> list[Counter[NGram]]:
    """One Counter for each order 1..4, shortest first."""
    words = text.split()
    return [Counter(zip(*(words[k:] for k in range(order)), strict=False)) for order in range(1, MAX_ORDER + 1)]
