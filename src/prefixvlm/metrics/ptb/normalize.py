"""A token goes in, as it stands in the text; it comes out as the PTB tokenizer writes it, before lower case."""

import re


def without_soft_hyphens(token: str) -> str:
    return token.replace("\u00ad", "") or "-"


def brackets(token: str) -> str:
    return token.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-")


def joined(token: str) -> str:
    """A space inside a token is written as a no-break space."""
    return token.replace(" ", "\u00a0")


def ampersand(token: str) -> str:
    return re.sub("&amp;", "&", token, flags=re.IGNORECASE)


_OPEN, _SINGLE_OPEN = "[\u0093\u201c\u00ab]", "[\u0091\u2018\u201b\u2039]"
_CLOSE, _SINGLE_CLOSE = "[\u0094\u201d\u00bb]", "[\u0092\u2019\u203a]"


def quotes(token: str, opening: bool = False) -> str:
    token = re.sub("&apos;|'", "`" if opening else "'", token)
    token = re.sub('"|&quot;', "``" if opening else "''", token)
    for quote, written in ((_SINGLE_OPEN, "`"), (_SINGLE_CLOSE, "'"), (_OPEN, "``"), (_CLOSE, "''")):
        token = re.sub(quote, written, token)
    return token


def opening(token: str) -> str:
    return quotes(token, opening=True)


FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
CURRENCIES = {"\u00a2": "cents", "\u00a3": "#", "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$"}
BRACKETS = {"[": "-lsb-", "]": "-rsb-", "(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-"}
