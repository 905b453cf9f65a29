"""How the PTB tokenizer writes a token, before it is put in lower case."""

import re


def remove_soft_hyphens(token: str) -> str:
    # A soft hyphen alone is still a token.
    return token.replace("\u00ad", "") or "-"


def escape_parentheses(token: str) -> str:
    """Escape parentheses as the Penn Treebank does, in whose trees they mark constituents."""
    return token.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-")


def join_spaces(token: str) -> str:
    """Write a space inside a token as a no-break space, so that the token stays one word."""
    return token.replace(" ", "\u00a0")


def decode_ampersands(token: str) -> str:
    return re.sub("&amp;", "&", token, flags=re.IGNORECASE)


_OPEN, _SINGLE_OPEN = "[\u0093\u201c\u00ab]", "[\u0091\u2018\u201b\u2039]"
_CLOSE, _SINGLE_CLOSE = "[\u0094\u201d\u00bb]", "[\u0092\u2019\u203a]"


def ascii_quotes(token: str, opening: bool = False) -> str:
    """Write quotes as in LaTeX: ` and `` open, ' and '' close. opening: whether a straight quote opens."""
    token = re.sub("&apos;|'", "`" if opening else "'", token)
    token = re.sub('"|&quot;', "``" if opening else "''", token)
    for quote, written in ((_SINGLE_OPEN, "`"), (_SINGLE_CLOSE, "'"), (_OPEN, "``"), (_CLOSE, "''")):
        token = re.sub(quote, written, token)
    return token


def opening_quotes(token: str) -> str:
    return ascii_quotes(token, opening=True)


# The lexer's options normalizeFractions and normalizeCurrency, which are on by default. The Penn Treebank writes the
# pound sign as a hash.
FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
CURRENCIES = {"\u00a2": "cents", "\u00a3": "#", "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$"}
BRACKETS = {"[": "-lsb-", "]": "-rsb-", "(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-"}
