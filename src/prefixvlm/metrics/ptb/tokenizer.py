"""A caption goes in, as people write it; its words come out, as the official COCO-caption tool cuts them.

The tool runs Stanford CoreNLP 3.4.1's PTBTokenizer (-preserveLines -lowerCase) and drops punctuation from its tokens.
Here a caption stands alone. In the tool all stand in one file, where a line break inside a caption shifts every later
one, and what a lexer rule sees of the next caption can matter: "vitamin C." is "c.", but "c" before "A man ...".
"""

import re
from functools import lru_cache

from prefixvlm.metrics.ptb.rules import ASSIMILATIONS, RULES

TOKENIZER = "ptb"

# The tool means to drop brackets too, but looks for "-LRB-" in lower-cased text: they stay.
_DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
_BREAKS = str.maketrans(dict.fromkeys("\n\r\u000b\u000c\u2028\u2029", " "))
# What a rule may read across a space: tags, numbers, spaced ellipses, a letter that ends a sentence.
_ACROSS = re.compile(r"[<\t\u00a0\u2000-\u200a\u3000]|\d\)? [(\d]|\. [.\dlL]|\b[A-Za-z]\. ")


def ptb_tokenize(text: str) -> str:
    """The words of a caption, lower case, joined by single spaces."""
    text = text.translate(_BREAKS)
    if _ACROSS.search(text):
        return _tokens(text)
    return " ".join([tokens for chunk in text.split(" ") if chunk and (tokens := _chunk(chunk))])


@lru_cache(maxsize=1 << 17)
def _chunk(chunk: str) -> str:
    if chunk.isascii() and chunk.isalpha() and chunk.lower() not in ASSIMILATIONS:
        return chunk.lower()
    return _tokens(chunk)


def _tokens(text: str) -> str:
    text, place, tokens = text + "\n\n", 0, []
    while place < len(text):
        token, place = _next(text, place)
        if token:
            tokens.append(token)
    # A token may hold exotic spaces. The tool strips the line, then splits it, then drops.
    return " ".join(token for token in " ".join(tokens).rstrip().split(" ") if token not in _DROPPED)


def _next(text: str, place: int) -> tuple[str, int]:
    """The token that starts here, written out, and where to go on; no token where no rule fits."""
    furthest, end, write = place, place + 1, None
    for rule in RULES:
        for pattern in rule.patterns:
            match = pattern.match(text, place)
            if match and match.end() > furthest:
                furthest, end, write = match.end(), match.end(1), rule.write
    return (write(text[place:end]).lower() if write else ""), end
