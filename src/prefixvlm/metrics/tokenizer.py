"""A caption goes in; lower-case words joined by single spaces come out, as the caption metrics want them.

Scores depend on the tokenizer, by points, so they are reported with its name (`TOKENIZER`).
"""

import re

TOKENIZER = "simple"  # this one; the official figures need "ptb"

# A word keeps the apostrophes and hyphens inside it, a number its points, commas and colons.
_TOKEN = re.compile(r"\w+(?:['\u2019-]\w+|(?<=\d)[.,:]\d\w*)*|[^\w\s]")
_DROPPED = frozenset(".?!,:;-\u2013\u2014\u2026'`\u2018\u2019\"\u201c\u201d()[]{}")


def simple_tokenize(text: str) -> str:
    """Drops the punctuation that the official tool drops, and all brackets; unlike PTB "man's" stays one."""
    return " ".join(token for token in _TOKEN.findall(text.lower()) if token not in _DROPPED)
