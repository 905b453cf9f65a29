"""The rules of the PTB tokenizer: patterns of tokens, and how each token is written.

The rules are those of Stanford CoreNLP 3.4.1's PTBLexer with its default options, as known from the published grammar
of an earlier release, the character and state tables of 3.4.1's archive, and from running it. At each position the rule
with the longest match applies, counted with the text that must follow the token; of equal ones the first.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from prefixvlm.metrics.ptb.characters import DIGITS, INSIDE, LETTERS, SYMBOLS
from prefixvlm.metrics.ptb.normalize import (
    BRACKETS,
    CURRENCIES,
    FRACTIONS,
    ascii_quotes,
    decode_ampersands,
    escape_parentheses,
    join_spaces,
    opening_quotes,
    remove_soft_hyphens,
)


class Rule(NamedTuple):
    """patterns: group 1 is the token; a match beyond it is text that must follow. write: how the token is written."""

    patterns: tuple[re.Pattern[str], ...]
    write: Callable[[str], str]


def _rule(*patterns: str, write: Callable[[str], str] = lambda token: token) -> Rule:
    return Rule(tuple(re.compile(pattern) for pattern in patterns), write)


# Whole words match in any case, as in the lexer's grammar; character classes match as written.
_L, _D, _A = f"[{LETTERS}]", f"[{DIGITS}]", f"[{LETTERS}{DIGITS}]"
_BLANK = "[ \t\u00a0\u2000-\u200a\u3000]"
_SPACE = "[ \t\u00a0\u2000-\u200a\u3000\r\n\u2028\u2029\u000b\u000c\u0085]"
_APOSTROPHE = "(?:['\u0092\u2019]|(?i:&apos;))"
_ANY_APOSTROPHE = "(?:['\u0092\u2019`\u0091\u2018\u201b]|(?i:&apos;))"
_HYPHEN = "[-_\u058a\u2010\u2011]"
_STOP = "[,;:\u3001]"
_AMPERSAND = "(?i:&amp;|&)"
_LETTER = f"(?:[{LETTERS}{INSIDE}]|&[aeiouAEIOU](?i:acute|grave|uml);)"
# Single marks inside a word do not end it: "U.S.A", "yahoo!mail".
_WORD = f"{_LETTER}(?:{_LETTER}|{_D})*"
_WORD = f"{_WORD}(?:[.!?]{_WORD})*"
_NUMBER = f"(?:{_D}*(?:[.:,\u00ad\u066b\u066c]{_D}+)+|{_D}+)"
_SUFFIX = f"{_APOSTROPHE}(?:[msdMSD]|(?i:re|ve|ll))"
_NOT = f"(?i:n{_ANY_APOSTROPHE}t)"


def _either(words: str) -> str:
    return "(?i:" + "|".join(words.split()) + ")"


# Abbreviations keep their full stop. Some of them may end a sentence, titles and names may not: "Mr. Smith".
_DATES = "jan feb mar apr jun jul aug sept sep oct nov dec mon tues tue wed thurs thu fri "
_STATES = "ala ariz calif colo conn ct dak fla ga ind kans kan ky md mich minn mo mont neb nev okla penn tenn va vt "
_FIRMS = "wisc wis wyo inc cos co corp ltd plc bancorp bhd assn univ intl sys (?:p?pt)(?-i:[ey])s? "
_OTHERS = r"est ext sq tel jr sr bros blvd bldg rd rt esq etc al seq (?:ed|ph)\.d"
_STATE_NAMES = "A(?i:rk|z)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash)"
_MAYBE_LAST = f"(?:{_either(_DATES + _STATES + _FIRMS + _OTHERS)}|{_STATE_NAMES})"
_TITLES = (
    "mrs mr ms drs dr profs prof sens sen reps rep attys atty lt col gen messrs govs gov adm rev maj sgt cpl pvt mt "
    "capt ste st ave pres lieut hon brig comdr cmdr pfc spc sfc supts supt det ens insp mme mlle msgr asst assoc adj "
    "adv dept "
)
_NAMES = r"vs alex wm jos cie cf treas invt elec natl m(?-i:[ft])g ft ph a\.k\.a"
_ACRONYM = r"(?:(?i:canada|sino|korean|eu|japan|non)(?i:-u\.s)|(?i:u\.s\.-u\.(?:s\.s\.r|k))|[A-Za-z](?:\.[A-Za-z])+)"
_NEVER_LAST = f"(?:{_ACRONYM}|{_either(_TITLES + _NAMES)}|[A-Za-z])"
_BEFORE_NUMBER = _either("art bldg ca figs fig nos no op pp prop")
# Words that the lexer takes as a sign that a new sentence begins.
_SENTENCE_STARTS = (
    "A(?i:bout|ccording|dditionally|fter|n|s|t)?|B(?i:ut)|E(?i:arlier)|H(?i:ere?|e|owever)|I(?i:f|n|t)|L(?i:ast)|"
    r"M(?i:any|ore|r\.|s\.)|N(?i:ow)|O(?i:nce|ne|ther|ur)|S(?i:he|ince|ome|o|uch)|T(?i:hat|hese|hen|here|hey|he|his)|"
    "W(?i:hen|hile|hat|e)|Y(?i:et|ou)"
)

_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
_TAG = (
    rf"<(?:[!?][A-Za-z-][^>\r\n]*|{_NAME}(?: +(?:{_NAME} *= *(?:'[^'\r\n]*'|\"[^\"\r\n]*\")|{_NAME}))* */?|/{_NAME}) *>"
)
_URL_CHARACTER, _URL_END = r"[^ \t\n\f\r\"<>|()]", r"[^ \t\n\f\r\"<>|.!?(){},-]"
_HOST, _SITE = r"[^ \t\n\f\r\"<>|.!?(){},]", r"[^ \t\n\f\r\"`'<>|.!?(){},\--_$]"
_PATH = f"(?:/{_URL_CHARACTER}+{_URL_END})?"
_MAIL = r"[^ \t\n\f\r\"<>|(){}.\u00a0]+"
_EXTENSION = _either(
    "bat bmp class cgi cpp c dll docx doc exe gif gz html htm h jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql "
    "tar txt wav xml x zip"
)
_FACE = "[-^x=~<>']"
_FRACTION_PART = f"{_D}{{1,4}}"
_PHONE = r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
_SLASH_PART = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_HYPHENATED = f"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_ACRONYM}\\.|[A-Za-z0-9\u00ad]+))+"
_ELIDED = f"(?:[dDoOlL]{_ANY_APOSTROPHE}{_A})?{_A}+"
_THING = f"{_ELIDED}(?:{_HYPHEN}{_ELIDED})*"
_FIRM = f"[A-Z]+(?:(?:[+]|{_AMPERSAND})[A-Z]+)+"

ASSIMILATIONS = frozenset(("cannot", "gonna", "gotta", "lemme", "gimme", "wanna"))  # one word that becomes two

# The order matters: it decides between matches of equal length.
RULES = (
    _rule("(?i:(can)not)", "(?i:(gon)na)", "(?i:(got)ta)", "(?i:(lem)me)", "(?i:(gim)me)", "(?i:(wan)na)"),
    _rule("(?i:('t)is)", "(?i:('t)was)"),
    _rule(f"({_TAG})", write=join_spaces),
    _rule("((?i:&(?:md|mdash|ndash);)|[\u0096\u0097\u2013-\u2015])", write=lambda token: "--"),
    _rule("((?i:&amp;))", write=decode_ampersands),
    _rule("((?i:&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|#[0-9]+);))"),
    _rule(f"({_WORD}){_SUFFIX}", write=remove_soft_hyphens),
    _rule(f"([A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*){_NOT}", write=remove_soft_hyphens),
    _rule(f"({_WORD})", write=remove_soft_hyphens),
    _rule(
        f"({_APOSTROPHE}(?i:n){_APOSTROPHE}?)",
        f"([lLdDjJ]{_APOSTROPHE})",
        f"((?i:dunkin|somethin|ol){_APOSTROPHE})",
        f"({_APOSTROPHE}(?i:em|till?|cause))",
        f"([A-HJ-XZn]{_ANY_APOSTROPHE}{_L}{{2,}})",
        f"({_APOSTROPHE}[2-9](?i:0s))",
        f"({_L}+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z]{_L}*)",
        r"((?i:cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l))",
        f"((?i:o{_ANY_APOSTROPHE}o))",
    ),
    _rule(f"((?i:y){_APOSTROPHE}){_L}"),
    _rule(rf"((?i:https?)://[^ \t\n\f\r\"<>|(){{}}]+{_URL_END})"),
    _rule(
        rf"((?i:www)\.(?:{_HOST}+\.)+[a-zA-Z]{{2,4}}{_PATH})",
        rf"((?:{_SITE}+\.)+(?i:com|net|org|edu){_PATH})",
    ),
    _rule(rf"((?:<|(?i:&lt;))?[a-zA-Z0-9][^ \t\n\f\r\"<>|(){{}}\u00a0]*@(?:{_MAIL}\.)*{_MAIL}(?:>|(?i:&gt;))?)"),
    _rule("(@[a-zA-Z_][a-zA-Z_0-9]*)", f"(#{_LETTER}+)"),
    _rule(f"({_SUFFIX})[^A-Za-z]", f"({_NOT})[^A-Za-z]", f"({_NOT})", write=ascii_quotes),
    _rule(rf"({_D}{{1,2}}[-/]{_D}{{1,2}}[-/]{_D}{{2,4}})"),
    _rule(f"([-+]?{_NUMBER})", write=remove_soft_hyphens),
    _rule("([\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+))"),
    _rule(f"((?:{_FRACTION_PART}[- \u00a0])?{_FRACTION_PART}(?:\\\\?/|\u2044){_FRACTION_PART})", write=join_spaces),
    _rule("([\u00bc\u00bd\u00be\u2153-\u215e])", write=lambda token: FRACTIONS.get(token, token)),
    _rule(
        f"((?i:-(?:[rlc]rb|[rl]cb|[rl]sb)-|c\\.d\\.s|pro-|anti-|s{_AMPERSAND}(?:p-500|ls)|cap{_APOSTROPHE}n|c{_APOSTROPHE}est))",
        r"((?i:c\+\+|[cf]#))",
        write=decode_ampersands,
    ),
    _rule(rf"({_SLASH_PART}(?:\\?/{_SLASH_PART}){{1,2}})"),
    _rule(r"((?:[A-Z]*\$|#))"),
    _rule(
        "([\u0080\u00a2-\u00a5\u060b\u0e3f\u20a0\u20a4\u20ac\uffe0\uffe1\uffe5\uffe6])",
        write=lambda token: CURRENCIES.get(token, token),
    ),
    # A full stop after a single letter is a token of its own only before the likely start of a sentence.
    _rule(rf"([A-Za-z])\.{_SPACE}+(?:{_SENTENCE_STARTS}|{_TAG}){_SPACE}"),
    _rule(f"((?i:co|pt(?-i:[eyEY]))\\.){_BLANK}(?i:ltd|lim)"),
    _rule(f"({_MAYBE_LAST}\\.)(?s:..)", f"({_MAYBE_LAST}\\.)"),
    _rule(f"({_BEFORE_NUMBER}\\.){_SPACE}?{_D}"),
    _rule(f"({_NEVER_LAST}\\.)"),
    _rule(f"({_NEVER_LAST}){_BLANK}"),
    _rule(f"({_ACRONYM}){_SPACE}"),
    _rule(f"({_APOSTROPHE}[0-9][0-9]){_SPACE}"),
    _rule(f"((?:{_LETTER}|{_D})+(?:\\.(?:{_LETTER}|{_D})+)*\\.{_EXTENSION})(?:{_SPACE}|[.?!,])"),
    _rule(f"({_WORD}\\.){_STOP}", write=remove_soft_hyphens),
    _rule(
        rf"({_PHONE}[0-9]{{3,4}}[- \u00a0]?[0-9]{{3,5}})",
        r"((?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5})",
        write=escape_parentheses,
    ),
    _rule('("|(?i:&quot;))[A-Za-z0-9$]', write=opening_quotes),
    _rule('("|(?i:&quot;))', write=ascii_quotes),
    _rule("(<|(?i:&lt;))", write=lambda token: "<"),
    _rule("(>|(?i:&gt;))", write=lambda token: ">"),
    _rule(r"([\[\](){}])", write=BRACKETS.__getitem__),
    _rule("(-+)", write=lambda token: "--" if 3 <= len(token) <= 4 else token),
    _rule(r"(\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u0085\u2026])", write=lambda token: "..."),
    _rule("(@+|#+|_+)", r"(\*+|(?:\\\*){1,3})", f"({_STOP})", "([?!]+)", r"([.=/])"),
    _rule(f"({_HYPHENATED}\\.){_STOP}", f"({_HYPHENATED})", write=remove_soft_hyphens),
    _rule(f"({_THING}\\.){_STOP}", f"({_THING})"),
    _rule(f"({_FIRM}\\.){_STOP}", f"({_FIRM})", write=decode_ampersands),
    _rule(r"(')[A-Za-z][^ \t\n\r\u00a0]", write=opening_quotes),
    _rule(
        f"({_SUFFIX})",
        f"([`\u2018\u2019\u201a-\u201f\u0091-\u0094\u2039\u203a\u00ab\u00bb]{{1,2}}|''|{_APOSTROPHE})",
        write=ascii_quotes,
    ),
    _rule("(<<|>>)"),
    _rule(rf"([+%&~^|\\\u2044\u207a\u207b\u208a\u208b\u24b6-\u24cf{SYMBOLS}])"),
    _rule(f"({_BLANK}+)", "((?i:&nbsp;))", write=lambda token: ""),
    _rule(r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]", write=escape_parentheses),
    _rule(rf"({_FACE}_{_FACE}|\({_FACE}[_.]?{_FACE}\)|\([x=~<>^']-[x=~<>^'`]\))", write=escape_parentheses),
)
