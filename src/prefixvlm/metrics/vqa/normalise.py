"""Normalisation of answers as in the official VQA evaluation, with its errors.

After GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py @a013f00, run by Python 3.
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
    """Replace newlines and tabs by spaces and strip the text."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def process_punctuation(text: str) -> str:
    """Remove punctuation, or replace it by spaces; apostrophes and colons stay."""
    # The original decides by sign, not by occurrence: one occurrence beside a space removes all of them, and a comma
    # between digits anywhere removes every sign. It tests the text as it came, not as it is processed so far.
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    processed = text
    for sign in _PUNCTUATION:
        if sign in text:
            beside_space = f"{sign} " in text or f" {sign}" in text
            processed = processed.replace(sign, "" if in_number or beside_space else " ")
    return _PERIOD.sub("", processed, count=_MAX_PERIODS)


def process_words(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Return text in lower case, with digits for number words ("none" is 0), without articles, with apostrophes."""
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


# Cached: the ten answers of a question are mostly equal, and questions share their answers.
@lru_cache(maxsize=1 << 17)
def normalise(text: str) -> str:
    """Apply strip_lines, process_punctuation and process_words."""
    return process_words(process_punctuation(strip_lines(text)))
