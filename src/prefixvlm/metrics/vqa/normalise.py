"""A written answer goes in; the form that the official VQA evaluation compares comes out, with all its quirks.

After GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py @a013f00, as Python 3 reads it.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from prefixvlm.metrics.vqa.contractions import CONTRACTIONS

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The original's look-behind for a digit is malformed and holds everywhere: only what follows a full stop counts.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the value of re.UNICODE, which the original passes as the count
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBERS)} | {"zero": "0"}


def strip_lines(text: str) -> str:
    """Newlines and tabs become spaces, those at the ends go: all that is done where the references agree."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def process_punctuation(text: str) -> str:
    """Without punctuation: a sign beside a space anywhere in the text goes, else a space takes its place.

    In a text with a comma between digits every sign goes without a space. Apostrophes and colons stay.
    """
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    processed = text
    for sign in _PUNCTUATION:
        if sign in text:
            beside_space = f"{sign} " in text or f" {sign}" in text
            processed = processed.replace(sign, "" if in_number or beside_space else " ")
    return _PERIOD.sub("", processed, count=_MAX_PERIODS)


def process_words(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Lower case, single spaces, number words as digits ("none" as 0), no articles, apostrophes put back."""
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 17)
def normalise(text: str) -> str:
    """`strip_lines`, `process_punctuation`, `process_words`."""
    return process_words(process_punctuation(strip_lines(text)))
