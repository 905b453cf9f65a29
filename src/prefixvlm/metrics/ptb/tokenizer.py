"""The tokenizer of the official COCO caption tool, in Python.

The tool runs Stanford CoreNLP 3.4.1's PTBTokenizer (-preserveLines -lowerCase) and drops punctuation from its tokens.
Here each caption is tokenized alone. In the tool all are lines of one file, where a line break inside a caption shifts
all later ones, and where a rule can depend on the next caption: "vitamin C." is "c.", but "c" before "A man ...".
"""

import re
from functools import lru_cache

from prefixvlm.metrics.ptb.rules import ASSIMILATIONS, RULES

TOKENIZER = "ptb"

# The tool's list. It has brackets too, but as "-LRB-", and the text is in lower case by then: they stay.
_DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
# All that the lexer takes for the end of a line, which would end the caption.
_BREAKS = str.maketrans(dict.fromkeys("\n\r\u000b\u000c\u2028\u2029", " "))
# Text in which a rule may match across a space: tags, numbers, spaced ellipses, a letter at the end of a sentence.
_ACROSS_SPACE = re.compile(r"[<\t\u00a0\u2000-\u200a\u3000]|\d\)? [(\d]|\. [.\dlL]|\b[A-Za-z]\. ")


def ptb_tokenize(text: str) -> str:
    """Return the tokens of a caption in lower case, joined by single spaces."""
    text = text.translate(_BREAKS)
    # Other captions are tokenized word by word, since captions repeat their words and _chunk remembers them.
    if _ACROSS_SPACE.search(text):
        return _tokens(text)
    return " ".join([tokens for chunk in text.split(" ") if chunk and (tokens := _chunk(chunk))])


@lru_cache(maxsize=1 << 17)
def _chunk(chunk: str) -> str:
    # Most words need no rule: the letters of one word are one token, but for the words that become two.
    if chunk.isascii() and chunk.isalpha() and chunk.lower() not in ASSIMILATIONS:
        return chunk.lower()
    return _tokens(chunk)


def _tokens(text: str) -> str:
    # The line breaks stand for the end of the tool's line, which some rules require after a token.
    text, place, tokens = text + "\n\n", 0, []
    while place < len(text):
        token, place = _next(text, place)
        if token:
            tokens.append(token)
    # A token may contain other kinds of spaces: strip the line, split it and drop punctuation in the tool's order.
    return " ".join(token for token in " ".join(tokens).rstrip().split(" ") if token not in _DROPPED)


def _next(text: str, place: int) -> tuple[str, int]:
    """Return the token at a position as it is written, empty if no rule matches, and the position after it."""
    furthest, end, write = place, place + 1, None
    for rule in RULES:
        for pattern in rule.patterns:
            match = pattern.match(text, place)
            if match and match.end() > furthest:
                furthest, end, write = match.end(), match.end(1), rule.write
    return (write(text[place:end]).lower() if write else ""), end
