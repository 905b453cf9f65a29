"""The caption metrics against figures that pycocoevalcap 1.2 gave for the same tokenised input."""

import pytest

from prefixvlm.metrics.bleu import bleu
from prefixvlm.metrics.captions import caption_scores
from prefixvlm.metrics.cider import cider
from prefixvlm.metrics.rouge import rouge_l
from prefixvlm.metrics.tokenizer import simple_tokenize

REFERENCES = {
    0: ["a man rides a horse", "a person riding a horse"],
    1: ["a red bus on the road", "bus on street"],
    2: ["two dogs play"],
}
PREDICTIONS = {0: "a man rides a horse", 1: "a red bus on the street", 2: "a cat sleeps"}

# Too long, exact, repeated words, not ASCII, nothing, two references as close in length.
ODD_REFERENCES = {
    "dogs": ["two dogs play in the park", "two brown dogs play with a ball", "dogs playing"],
    "bus": ["a red bus on the road", "bus on street"],
    "repeat": ["a a a b", "the cat the cat"],
    "café": ["une café à paris", "a small café"],
    "empty": ["a man rides a horse"],
    "tie": ["one two three four", "one two"],
}
ODD_PREDICTIONS = {
    "dogs": "two dogs play with the red ball in the park today while people watch",
    "bus": "a red bus on the road",
    "repeat": "a a b the cat the cat the cat",
    "café": "a café à paris",
    "empty": "",
    "tie": "one two three",
}


def close(expected: list[float]) -> object:
    return pytest.approx(expected, abs=1e-9)


def test_cider_is_the_official_cider_d() -> None:
    score, scores = cider(PREDICTIONS, REFERENCES)
    assert score == pytest.approx(3.6088733857542024, abs=1e-9)
    assert list(scores.values()) == pytest.approx([5.85725182, 4.96936834, 0], abs=1e-8)
    score, scores = cider(ODD_PREDICTIONS, ODD_REFERENCES)
    assert score == pytest.approx(2.8529802076604374, abs=1e-9)
    assert list(scores.values()) == close(
        [0.8824649524032984, 5.973356191916189, 2.4945205045951973, 3.0453003618861403, 0.0, 4.722239235161802]
    )


def test_cider_depends_on_the_set() -> None:
    assert cider({0: "a horse"}, {0: ["a horse"]}) == (0.0, {0: 0.0})
    two = [0, 1]
    _, subset = cider({id: PREDICTIONS[id] for id in two}, {id: REFERENCES[id] for id in two})
    _, whole = cider(PREDICTIONS, REFERENCES)
    assert subset[0] != pytest.approx(whole[0])


def test_bleu_is_the_official_one() -> None:
    corpus, _ = bleu(PREDICTIONS, REFERENCES)
    assert corpus == pytest.approx([0.7857, 0.7559, 0.7539, 0.7652], abs=1e-4)
    corpus, images = bleu(ODD_PREDICTIONS, ODD_REFERENCES)
    assert corpus == close([0.777777777756173, 0.6904364626321197, 0.6036962042698514, 0.4524535583248028])
    assert images["bus"] == pytest.approx([1, 1, 1, 1], abs=1e-6)
    assert images["empty"] == [0, 0, 0, 0]


def test_rouge_is_the_official_one() -> None:
    assert rouge_l(PREDICTIONS, REFERENCES)[0] == pytest.approx(0.6414141414141413, abs=1e-9)
    score, scores = rouge_l(ODD_PREDICTIONS, ODD_REFERENCES)
    assert score == pytest.approx(0.6763149536677934, abs=1e-9)
    assert list(scores.values()) == close([0.646643109540636, 1.0, 0.6612466124661246, 0.75, 0.0, 1.0])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man's dog isn't running, it's fast!!", "a man's dog isn't running it's fast"),
        ('(A) "red", well-known bus -- 1,000 at 10:30...', "a red well-known bus 1,000 at 10:30"),
        ("Ein süßes\nCafé für 3.50 €.", "ein süßes café für 3.50 €"),
        ("\u201ccurly\u201d \u2018quotes\u2019 \u2014 it\u2019s", "curly quotes it\u2019s"),
        (" . ", ""),
    ],
)
def test_simple_tokenize(text: str, tokens: str) -> None:
    assert simple_tokenize(text) == tokens


def test_caption_scores_tokenise_and_say_so() -> None:
    raw = {id: text.capitalize() + "." for id, text in PREDICTIONS.items()}
    result = caption_scores(raw, REFERENCES)
    assert list(result.scores) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
    assert result.scores["cider"] == pytest.approx(3.6088733857542024)
    assert result.per_item["cider"] == list(cider(PREDICTIONS, REFERENCES)[1].values())
    assert "simple" in result.variant


@pytest.mark.parametrize("metric", [bleu, rouge_l, cider, caption_scores])
def test_ids_must_match(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"1 without a prediction \(2\) and 1 without references \(7\)"):
        metric({0: "a", 1: "a", 7: "a"}, REFERENCES)
    with pytest.raises(ValueError, match="item 0 has no reference"):
        metric({0: "a"}, {0: []})
    with pytest.raises(ValueError, match="one string"):
        metric({0: "a"}, {0: "a"})
    with pytest.raises(ValueError, match="no predictions"):
        metric({}, {})
