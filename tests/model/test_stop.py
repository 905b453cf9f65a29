"""Texts that come bit by bit are those that are truncated when they are whole."""

import random

import pytest

from prefixvlm.model.stop import pieces, truncate_at_stop


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        (" a red  circle \n and more", ["\n"]),
        ("ab<end>cd", ["<end>", "e"]),
        ("ab<en and <e", ["<end>"]),
        ("trailing <en", ["<end>"]),
        ("no stop  ", []),
        ("\nat once", ["\n"]),
        ("  ", ["\n"]),
        ("", []),
    ],
)
def test_the_pieces_are_the_whole_text(text, stop):
    rng = random.Random(0)
    for _ in range(20):
        ends = sorted({*rng.choices(range(len(text) + 1), k=4), len(text)})
        said = list(pieces((text[:end] for end in ends), stop))
        assert "".join(said) == truncate_at_stop(text.strip(), stop)
        assert all(said)


def test_nothing_comes_that_may_be_taken_back():
    """Neither half a letter nor the beginning of a stop text is said before it is certain."""
    texts = iter(["a", "a\ufffd", "a\u00e9", "a\u00e9 <", "a\u00e9 <e", "a\u00e9 <em"])
    assert list(pieces(texts, ["<end>"])) == ["a", "\u00e9", " <em"]


def test_nothing_is_decoded_after_a_stop():
    def texts():
        yield "a\nb"
        pytest.fail("it goes on")

    assert list(pieces(texts(), ["\n"])) == ["a"]
