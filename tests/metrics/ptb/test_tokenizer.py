"""Compare the PTB tokenizer with the official one.

golden.json holds pairs of a text and its words: a file with the texts, a line "zzz" after each (some rules look at
the next line), went through

    java -cp stanford-corenlp-3.4.1.jar edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase FILE

of pycocoevalcap 1.2, and the tokens that its ptbtokenizer.py drops were dropped. The texts are Flickr8k and COCO
captions, contractions, abbreviations in several cases, and random ones of words, signs, Unicode and the lexer's states.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from prefixvlm.metrics.ptb.tokenizer import ptb_tokenize

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def missing() -> str:
    """Return why the official tokenizer cannot run here, empty if it can."""
    if not shutil.which("java"):
        return "there is no java"
    return "" if importlib.util.find_spec("pycocoevalcap") else "the package pycocoevalcap is not installed"


def differences(pairs: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    return [(text, words, ptb_tokenize(text)) for text, words in pairs if ptb_tokenize(text) != words]


def test_equals_golden() -> None:
    assert len(GOLDEN) > 1000
    assert differences(GOLDEN) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's dog isn't running, it's fast!!", "a man 's dog is n't running it 's fast !!"),
        ("Two dogs sitting on top of the bed . ", "two dogs sitting on top of the bed"),
        ("He cannot, they're gonna: 'tis", "he can not they 're gon na 't is"),
        ("Mr. Smith on Main St. in the U.S.", "mr. smith on main st. in the u.s."),
        ("a (red) [blue] {big} <one>", "a -lrb- red -rrb- -lsb- blue -rsb- -lcb- big -rcb- <one>"),
        ("\u201cHi\u201d -- it\u2019s 1 1/2 caf\u00e9s\u2026", "hi it 's 1\u00a01/2 caf\u00e9s"),
        ("a\nb\r\nc", "a b c"),
        ("colour", "colour"),
        (" .\n", ""),
        ("", ""),
    ],
)
def test_by_hand(text: str, words: str) -> None:
    assert ptb_tokenize(text) == words


def test_a_word_does_not_depend_on_what_came_before() -> None:
    """Cached words give the same tokens as the whole text."""
    text = "A dog's toy, 10-year-old B&W photo <3 of Mr. O'Brien's"
    first = ptb_tokenize(text)
    for word in text.split():
        ptb_tokenize(word)
    assert ptb_tokenize(text) == first


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_equals_the_official_one() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [text for text, _ in GOLDEN]
    apart = [line for text in texts for line in ({"caption": text}, {"caption": "zzz"})]
    words = PTBTokenizer().tokenize({0: apart})[0]
    assert words[1::2] == ["zzz"] * len(texts)
    assert differences(list(zip(texts, words[::2], strict=True))) == []
