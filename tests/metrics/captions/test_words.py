"""Tokenizing captions by characters in scripts without spaces, and by PTB words in others."""

import json

import pytest
from torchmetrics.functional.text import sacre_bleu_score

from prefixvlm import cli
from prefixvlm.metrics.captions.caption_scores import caption_scores
from prefixvlm.metrics.captions.diversity import diversity
from prefixvlm.metrics.captions.words import CHARACTERS, PTB, characters, words_of

PREDICTIONS = {0: "一只红苹果在桌子上", 1: "两只狗在草地上玩耍", 2: "笑哭了", 3: "iPhone手机"}
REFERENCES = {
    0: ["桌子上有一只红苹果", "一个红色的苹果"],
    1: ["草地上两只狗在玩", "两只狗"],
    2: ["笑哭了", "笑"],
    3: ["一部iPhone", "手机 2个"],
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("一只红苹果\uff0c在桌子上。", "一 只 红 苹 果 在 桌 子 上"),
        ("T恤衫 2个 iPhone手机", "t 恤 衫 2 个 iphone 手 机"),
        ("りんごは、赤い。", "り ん ご は 赤 い"),
        ("ที่นี่", "ที่ นี่"),  # vowels and tones stay with their letter
        ("旗\uff1a中国\uff08红\uff09", "旗 中 国 红"),
        ("A man's dog.", "a man 's dog"),
        ("。", ""),
    ],
)
def test_characters(text, words):
    assert characters(text) == words


def test_the_majority_of_the_references_characters_decides():
    assert words_of([["a dog", "ein Hund über"], ["кот на коврике", "개 한 마리"]]) is PTB
    assert words_of([["a 狗"], ["two dogs"]]) is PTB
    assert words_of([["一只狗"], ["两只狗 T"]]) is CHARACTERS
    assert words_of([]) is PTB


def test_bleu_by_characters_equals_sacrebleus():
    result = caption_scores(PREDICTIONS, REFERENCES)
    assert result.variant == "coco; characters; df=references"
    texts = [text.lower() for text in PREDICTIONS.values()]
    truths = [[text.lower() for text in each] for each in REFERENCES.values()]
    for order in range(1, 5):
        expected = sacre_bleu_score(texts, truths, n_gram=order, tokenize="zh").item()
        assert result.scores[f"bleu_{order}"] == pytest.approx(expected, abs=1e-6)


def test_scores_equal_those_of_captions_with_spaces_between_the_characters():
    spaced = {id: " ".join(text) for id, text in list(PREDICTIONS.items())[:3]}
    truths = {id: [" ".join(text) for text in REFERENCES[id]] for id in spaced}
    ours = caption_scores({id: PREDICTIONS[id] for id in spaced}, {id: REFERENCES[id] for id in spaced})
    assert ours.scores == caption_scores(spaced, truths, words=PTB).scores
    whole = caption_scores({id: PREDICTIONS[id] for id in spaced}, {id: REFERENCES[id] for id in spaced}, words=PTB)
    assert whole.scores["cider"] < ours.scores["cider"]  # what a sentence for a word would score
    assert diversity(["一只狗", "一只猫"], CHARACTERS)["vocabulary"] == 4


def test_the_command_prints_the_variant(tmp_path, monkeypatch, capsys):
    annotations = [{"image_id": id, "caption": text} for id, texts in REFERENCES.items() for text in texts]
    results = [{"image_id": id, "caption": text} for id, text in PREDICTIONS.items()]
    for name, content in (("references", {"annotations": annotations}), ("predictions", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [f"--{name}={tmp_path / name}.json" for name in ("references", "predictions")]
    saved = ["--save-document-frequencies", str(tmp_path / "df.json")]
    monkeypatch.setattr("sys.argv", ["prefixvlm", "score", "captions", *files, *saved, "--json"])
    cli.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["variant"] == "coco; characters; df=references"
    assert printed["cider"] == caption_scores(PREDICTIONS, REFERENCES).scores["cider"]
    assert printed["missing"]["meteor"] == "it reads words of English, and these captions have no spaces"
    assert "红" in json.loads((tmp_path / "df.json").read_text())["counts"]
