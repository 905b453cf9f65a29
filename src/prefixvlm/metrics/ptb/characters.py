"""Character classes of the PTB tokenizer, as the inside of a regular expression's [...].

The tokenizer of 2014 knows Unicode 6.0, and only the first 65,536 code points: newer letters are no letters to it.
"""

from itertools import pairwise


def _expand(ranges: str) -> str:
    """Convert ranges of code points: "41-5A AA" to "\\u0041-\\u005a\\u00aa"."""
    ends = (part.split("-") for part in ranges.split())
    return "".join(r"\u" + r"-\u".join(end.zfill(4) for end in pair) for pair in ends)


def _letters() -> str:
    """Return Python's letters as ranges, without the ones of later versions of Unicode."""
    # From Python's tables, since a list of all letters would be long. U+1885 and U+1886 were letters then; Unicode has
    # since made them marks.
    newer = {code for first, last in _pairs(_NEWER) for code in range(first, last + 1)}
    codes = [code for code in range(0x10000) if chr(code).isalpha() and code not in newer] + [0x10000]
    starts = [codes[0]] + [code for before, code in pairwise(codes) if code != before + 1]
    ends = [before for before, code in pairwise(codes) if code != before + 1]
    return _expand(" ".join(f"{first:X}-{last:X}" for first, last in zip(starts, ends, strict=False))) + r"\u1885\u1886"


def _pairs(ranges: str) -> list[tuple[int, int]]:
    ends = (part.split("-") for part in ranges.split())
    return [(int(pair[0], 16), int(pair[-1], 16)) for pair in ends]


# Letters that were added after Unicode 6.0, with the unassigned code points between them.
_NEWER = (
    "37F 528-52F 560 588 5EF 860-88E 8A1 8AD-8C9 978 980 9FC AF9 C34 C5A-C5D C80 CDD D04 D54-D5F E86 E89 E8C E8E-E93 "
    "E98 EA0 EA8-EA9 EAC 13F5-13FD 16F1-16F8 170D 171F 1878 191D-191E 19B0-19C0 19C8-19C9 1B4C 1C80-1CBF 1CF2-1CF3 "
    "1CFA 2C2F 2C5F 312E-312F 31BB-31BF 4DB6-4DBF 9FCD-9FFF A698-A69D A78F A794-A79F A7AB-A7F7 A8FD-A8FE A9E0-A9FE "
    "AA7E-AA7F AB30-ABBF"
)
# Marks and signs that the tokenizer accepts inside words, and the soft hyphen.
_INSIDE = (
    "AD 2C2-2C5 2D2-2DF 2E5-2EB 2ED 2EF-36F 375 378-379 384-385 3F6 483-487 55A-55F 591-5BD 5BF 5C1-5C2 5C4-5C5 5C7 "
    "615-61A 64B-65E 670 6D6-6E4 6E7-6ED 6FD-6FE 70F 711 730-74C 7A6-7B0 7EB-7F3 900-903 93C 93E-94E 951-955 962-963 "
    "981-983 9BC 9BE-9C4 9C7-9C8 9CB-9CD 9D7 9E2-9E3 A01-A03 A3C A3E-A4F A81-A83 ABC ABE-ACF B82 BBE-BC2 BC6-BC8 "
    "BCA-BCD C01-C03 C3E-C56 D3E-D44 D46-D48 E31 E34-E3A E47-E4E EB1 EB4-EBC EC8-ECD"
)
_DIGITS = (
    "30-39 660-669 6F0-6F9 7C0-7C9 966-96F 9E6-9EF A66-A6F AE6-AEF B66-B6F BE6-BEF C66-C6F CE6-CEF D66-D6F E50-E59 "
    "ED0-ED9 F20-F29 1040-1049 1090-1099 17E0-17E9 1810-1819 1946-194F 19D0-19D9 1A80-1A89 1A90-1A99 1B50-1B59 "
    "1BB0-1BB9 1C40-1C49 1C50-1C59 A620-A629 A8D0-A8D9 A900-A909 A9D0-A9D9 AA50-AA59 ABF0-ABF9 FF10-FF19"
)
# Signs that are tokens of their own.
_SYMBOLS = (
    "A1 A6-A9 AC AE-B1 B4 B6-B8 BF D7 F7 37E 387 589 5BE 5C0 5C3 5C6 5F3-5F4 600-603 606-60A 60C 614 61B 61E-61F 66A "
    "66D 6D4 700-70D 7F6-7F8 964-965 E4F 1FBD 2016-2017 2020-2023 2030-2038 203B 203E-2042 207C-207E 208C-208E "
    "2100-2101 2103-2106 2108-2109 2114 2116-2118 211E-2123 2125 2127 2129 212E 213A-213B 2140-2144 214A-214D 214F "
    "2190-24B5 24D0-2BFF 3002 3012 30FB FF01-FF0F FF1A-FF20 FF3B-FF40 FF5B-FF65"
)

LETTERS = _letters()
INSIDE = _expand(_INSIDE)
DIGITS = _expand(_DIGITS)
SYMBOLS = _expand(_SYMBOLS)
