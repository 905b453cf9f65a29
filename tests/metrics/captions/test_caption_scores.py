"""The caption metrics against figures that pycocoevalcap 1.2 gave, and against itself where it can be imported."""

import importlib.util
import json
import math
import random
from pathlib import Path

import pytest

from prefixvlm.metrics.captions.bleu import bleu
from prefixvlm.metrics.captions.caption_scores import caption_scores, caption_variant
from prefixvlm.metrics.captions.cider import DocumentFrequencies, cider
from prefixvlm.metrics.captions.rouge import rouge_l

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


def test_rouge_takes_precision_and_recall_from_different_references() -> None:
    """P from the long reference (2 of 2 words), R from the short one (1 of 1)."""
    assert rouge_l({0: "a b"}, {0: ["a b c d e f", "b"]})[1][0] == 1.0


def test_rouge_counts_in_order_and_repeats() -> None:
    words = [random.Random(0).choices("abc", k=80) for _ in range(2)]
    table = [[0] * 81 for _ in range(81)]
    for i, left in enumerate(words[0]):
        for j, right in enumerate(words[1]):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    score = rouge_l({0: " ".join(words[0])}, {0: [" ".join(words[1])]})[0]
    assert score == pytest.approx(table[80][80] / 80)


def test_bleu_takes_the_shorter_of_two_references_as_close() -> None:
    """Three words against two and four: no penalty. Against four alone there is one."""
    assert bleu({0: "a b c"}, {0: ["a b c d", "a b"]})[0][0] == pytest.approx(1)
    assert bleu({0: "a b c"}, {0: ["a b c d"]})[0][0] == pytest.approx(math.exp(1 - 4 / 3))


RAW_PREDICTIONS = {
    7: "A man's dog isn't running, it's fast!!",
    3: "Two brown dogs play (in the park).",
    5: "",
    1: "Un caf\u00e9 \u00e0 Paris",
}
RAW_REFERENCES = {
    1: ["A caf\u00e9 \u2014 \u00e0 Paris.", "Un petit caf\u00e9"],
    3: ["two dogs, brown, play in a park", "Dogs playing in the park .", "two dogs"],
    5: ["A red bus", "."],
    7: ["the man's dog is running fast", "A dog doesn't run", "His dog can't run!"],
}


# What pycocoevalcap 1.2 gave for them: its tokenizer, then Bleu(4), Rouge and Cider.
GOLDEN_SCORES = [
    0.7916666666336806,
    0.5137011668911483,
    0.3885105920468464,
    0.25005142444696965,
    0.7993958933633191,
    1.5486129937061213,
]
GOLDEN_CIDERS = [1.314060626743598, 1.6277925796059745, 0.0, 3.2525987684749125]
GOLDEN_ROUGES = [0.6944971537001898, 0.7530864197530864, 1.0, 0.75]
GOLDEN_BLEUS = [0.2790159393287965, 4.638596138890158e-05, 0.0, 0.00013512001537654853]


def test_caption_scores_are_those_of_the_official_pipeline() -> None:
    result = caption_scores(RAW_PREDICTIONS, RAW_REFERENCES)
    assert list(result.scores.values()) == close(GOLDEN_SCORES)
    assert list(result.scores) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
    assert result.per_item["cider"] == close(GOLDEN_CIDERS)
    assert result.per_item["rouge_l"] == close(GOLDEN_ROUGES)
    assert result.per_item["bleu_4"] == close(GOLDEN_BLEUS)
    assert result.variant == caption_variant() == "coco; ptb; df=references"


def test_saved_document_frequencies_replace_those_of_the_references(tmp_path: Path) -> None:
    frequencies = DocumentFrequencies.of(RAW_REFERENCES)
    for name in ("df.json", "df.json.gz"):
        frequencies.save(tmp_path / name)
        loaded = DocumentFrequencies.load(tmp_path / name)
        assert (loaded.num_images, loaded.counts) == (4, dict(frequencies.counts))
    whole = caption_scores(RAW_PREDICTIONS, RAW_REFERENCES)
    one = caption_scores({3: RAW_PREDICTIONS[3]}, {3: RAW_REFERENCES[3]}, loaded)
    assert one.per_item["cider"] == close([whole.per_item["cider"][1]])
    assert one.variant == "coco; ptb; df=df.json.gz"
    assert caption_scores({3: RAW_PREDICTIONS[3]}, {3: RAW_REFERENCES[3]}).scores["cider"] == 0


def test_document_frequencies_count_an_image_once() -> None:
    frequencies = DocumentFrequencies.of({0: ["a dog", "A dog."], 1: ["a cat"]})
    assert frequencies.counts == {("a",): 2, ("dog",): 1, ("a", "dog"): 1, ("cat",): 1, ("a", "cat"): 1}


BAD = [
    *("no json", "[]", "{}", '{"num_images": 2, "counts": []}'),
    *(f'{{"num_images": {number}, "counts": {{}}}}' for number in ("0", "true", "2.5")),
    *(f'{{"num_images": 2, "counts": {{{count}}}}}' for count in ('"a": 3', '"a": "1"', '"a b c d e": 1')),
]


@pytest.mark.parametrize("content", BAD)
def test_bad_document_frequencies_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "df.json").write_text(content)
    (tmp_path / "cut.gz").write_bytes(b"\x1f\x8b\x08")
    for name in ("df.json", "cut.gz", "none.json"):
        with pytest.raises(ValueError, match=f"document frequencies .*{name}"):
            DocumentFrequencies.load(tmp_path / name)


@pytest.mark.skipif(not importlib.util.find_spec("pycocoevalcap"), reason="the package pycocoevalcap is not installed")
def test_equals_the_official_scorers() -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    texts = [words for _, words in json.loads((Path(__file__).parents[1] / "ptb/golden.json").read_text())]
    generator = random.Random(1)
    predictions = {id: generator.choice(texts) for id in range(300)}
    references = {id: [predictions[id][3:], *generator.choices(texts, k=id % 5)] for id in range(300)}
    official = {id: [text] for id, text in predictions.items()}
    corpus, images = bleu(predictions, references)
    score, scores = Bleu(4).compute_score(references, official, verbose=0)
    assert corpus == pytest.approx(score, abs=1e-6)
    for order in range(4):
        assert [image[order] for image in images.values()] == pytest.approx(scores[order], abs=1e-6)
    for ours, theirs in ((rouge_l, Rouge()), (cider, Cider())):
        mean, items = ours(predictions, references)
        score, scores = theirs.compute_score(references, official)
        assert mean == pytest.approx(score, abs=1e-6)
        assert list(items.values()) == pytest.approx(list(scores), abs=1e-6)


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
