"""The HTML report is complete and self-contained, and escapes all texts of a data set."""

import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prefixvlm.report import html
from prefixvlm.report.gallery import gallery_keys
from prefixvlm.report.html import write_report

VOID = {"meta", "img", "wbr"}


class Page(HTMLParser):
    """Parses a page and collects its content; fails on tags that are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def text(tmp_path: Path, result: Any, predictions: Any, history: Any, examples: Any, png: bytes) -> str:
    path = tmp_path / "new" / "report.html"
    write_report(path, result, predictions, history, examples, dict.fromkeys(gallery_keys(predictions), png))
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_needs_no_other_files(text: str) -> None:
    assert re.findall(r"https?://[^\"\s]*", text.replace("http://www.w3.org/", "")) == []
    for _, attributes in Page(text).tags:
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src 'none'" in text


def test_texts_are_escaped(text: str) -> None:
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "base", "form"}
    assert "<script" not in text.lower()
    assert text.count("&lt;script&gt;") > 20
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert any("alert('x')" in data for data in page.texts)


def test_the_page_has_all_sections_in_order(text: str) -> None:
    page = Page(text)
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert ids == ["scores", "run", "curves", "predictions", "gallery", "classes"]
    words = " ".join(" ".join(page.texts).split())
    for part in ("75.00", "80.50", "\u22125.50", "60.00 … 88.00", "0.500", "+0.250", "12,000", "2025-01-02",
                 "1,000 parameters trained", "9,000 frozen", "10.00 %", "MLPMapper", "(only the image)", "train/loss",
                 "val/loss", "learning rate", "lr-AdamW/pg2",
                 "✗ wrong", "✓ right", "2 of 3 right", "micro", "macro", "weighted", "0123456789abcdef"):  # fmt: skip
        assert part in words, part
    assert "Answer:" not in words.split("Gallery", 2)[2]  # the frame of the prompts is not repeated
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(anchors) == len(set(anchors))


def test_images_keep_their_bytes_and_other_bytes_are_left_out(result: Any, predictions: Any, png: bytes) -> None:
    large = BytesIO()
    Image.new("RGB", (400, 300)).save(large, "JPEG")
    first, second, third = gallery_keys(predictions)[:3]
    images = {first: png, second: large.getvalue(), third: b"<svg onload=alert(1)>"}
    page = Page(html.render(result, predictions, [], [], images))
    shown = [attributes for tag, attributes in page.tags if tag == "img"]
    assert {attributes["src"][:22] for attributes in shown} == {"data:image/png;base64,", "data:image/jpeg;base64"}
    assert {attributes["alt"]: attributes.get("class") for attributes in shown} == {
        f"Image {first}": "tiny", f"Image {second}": None}  # fmt: skip
    assert "curves" not in [attributes.get("id") for _, attributes in page.tags]


def test_pages_about_images_are_linked_from_their_cards(result: Any, predictions: Any) -> None:
    keys = gallery_keys(predictions)
    page = Page(html.render(result, predictions, [], [], {}, pages={keys[0]: "inspect/0-x.html"}))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert set(links) - {link for link in links if link.startswith("#")} == {"inspect/0-x.html"}


def test_a_page_without_predictions(result: Any) -> None:
    page = Page(html.render(result, [], [], [], {}))
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == ["scores", "run"]


def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, result: Any, predictions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_report(path, result, predictions, [], [], {})
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def test_lone_surrogates_are_written(tmp_path: Path, result: Any, predictions: Any) -> None:
    predictions[0]["prediction"] = "half an emoji \ud83d"
    write_report(tmp_path / "report.html", result, predictions, [], [], {})
    assert "half an emoji ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def words_of(text: str, section: str) -> str:
    """Return the text of one section."""
    found = re.search(rf'<section id="{section}">(.*?)</section>', text, re.DOTALL)
    return " ".join(" ".join(Page(found[1]).texts).split()) if found else ""


def test_predictions_while_training_are_a_table_of_steps(text: str) -> None:
    words = words_of(text, "predictions")
    assert "step 100 step 300 step 400 step 600 step 700 step 900 references" in words
    assert "at 6 of 9 validations" in words
    assert words.count("✓ a red circle") == 2 * 3  # two images, right at the steps 600, 700 and 900
    assert "answer 900" in words
    assert "answer 800" not in words
    assert "Question:" not in words  # equal prompts are not shown
    assert text.count('<td class="right">') == 6


def test_few_validations_are_all_shown_and_none_have_no_section(result: Any, examples: Any) -> None:
    few = [line for line in examples if line["step"] in (100, 200) and (line["key"], line["step"]) != ("v1", 200)]
    words = words_of(html.render(result, [], [], few, {}), "predictions")
    assert "step 100 step 200 references" in words
    assert " of " not in words.split("✓")[0]
    assert "\u2013 a red circle" in words  # v1 has no prediction at step 200
    assert 'id="predictions"' not in html.render(result, [], [], [], {})


def test_different_questions_are_shown_with_the_images(result: Any, examples: Any) -> None:
    both = [examples[2], examples[2] | {"id": "other", "prompt": "Question: is it blue? Answer:"}]
    words = words_of(html.render(result, [], [], both, {}), "predictions")
    assert "v0 is it blue?" in words
    assert words.count("is it") == 2
    assert "Answer:" not in words


def test_predictions_without_references_are_neither_right_nor_wrong(result: Any, predictions: Any) -> None:
    unscored = [line | {"correct": None, "references": []} for line in predictions]
    result["tasks"]["vqa"]["num_unscored"] = 120
    page = html.render(result, unscored, [], [line | {"step": 1} for line in unscored], {})
    for word in ("✗ wrong", "✓ right", "references:", "reference:", " right</p>", "card wrong", "card right"):
        assert word not in page, word
    assert "without references, not scored 120" in words_of(page, "run")
    assert 'id="classes"' not in page
    mixed = html.render(result, [*unscored[40:42], predictions[42]], [], [], {})
    assert "1 of 1 right" in mixed


def test_options_that_are_not_defaults_are_shown(result: Any) -> None:
    plain = words_of(html.render(result, [], [], [], {}), "run")
    assert not re.search("few-shot|trials|clip_scorer|benchmark|limit|not scored|prompt", plain)
    few_shot = {"_target_": "x", "shots": 2, "choice": "nearest", "induction": "Please answer.", "seed": 5}
    result["evaluation"] |= {"few_shot": few_shot, "trials": 3, "limit": 7}
    result["evaluation"]["benchmark"] = {"source": "okvqa", "split": "test"}
    result["clip_scorer"] = {"name": "ViT-B-32-quickgelu", "pretrained": "openai", "warning": "the scorer flatters"}
    result["tasks"]["vqa"] |= {"prompt": "Q: {question} A:", "spread": {"accuracy": 1.25}}
    page = html.render(result, [], [], [], {})
    words = words_of(page, "run")
    for part in ("few-shot.shots 2", "few-shot.choice nearest", "few-shot.induction Please answer.", "trials 3",
                 "clip_scorer.name ViT-B-32-quickgelu", "benchmark okvqa", "split test", "limit 7",
                 "Q: {question} A:"):  # fmt: skip
        assert part in words, part
    scores = words_of(page, "scores")
    assert "83.33 ± 1.25" in scores
    assert "75.00 60.00 … 88.00 80.50" in scores  # captions have no spread here
    assert "mean of 3 trials" in scores
    assert "the scorer flatters" in scores


def test_speed_and_lost_data_have_a_section_of_their_own(result: Any) -> None:
    names = ("train/loss", "val/loss", "train/lr_mapper", "train/lr_encoder", "train/grad_norm", "train/prefix_norm",
             "train/token_norm", "val/captioning_bleu_1", "val/captioning_bleu_4", "val/captioning_vocabulary",
             "val/vqa_accuracy", "train/samples_per_second", "train/memory_gb")  # fmt: skip
    history = [{"step": step, "name": name, "value": step + 1.0} for name in names for step in range(3)]
    history += [{"step": step, "name": "train/bad_samples", "value": 0.0} for step in range(3)]
    page = html.render(result, [], history, [], {})
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert titles == ["loss", "learning rate", "gradient norm", "norm of an embedding", "captioning_bleu",
                      "vqa_accuracy", "captioning_vocabulary", "images a second", "memory, GB"]  # fmt: skip
    words = words_of(page, "curves")
    assert words.index("captioning_vocabulary") < words.index("Speed and lost data")
    assert "train/token_norm" in page
    assert "Speed and lost data" not in html.render(result, [], history[:6], [], {})


def test_the_nearest_tokens_are_shown_once_per_image(result: Any, examples: Any) -> None:
    tokens = [" red", "\n", "<b>", *(f"t{number}" for number in range(20))]
    known = [line | {"nearest": tokens} for line in examples if line["key"] == "v0"]
    page = html.render(result, [], [], known + [line | {"nearest": None} for line in examples[:2]], {})
    words = words_of(page, "predictions")
    assert "the first 12 of 23" in words
    assert words.split("Tokens nearest to the prefix")[1].count("red \u23ce <b> t0") == 6
    assert "t9" not in words
    assert "Tokens nearest to the prefix" not in html.render(result, [], [], examples, {})


def test_commit_and_command_are_shown_if_known(result: Any) -> None:
    result |= {"git": {"commit": "0123456789abcdef", "dirty": True}, "command": "eval.py ckpt=<x>"}
    words = words_of(html.render(result, [], [], [], {}), "run")
    assert "0123456789ab, changed since" in words
    assert "eval.py ckpt=<x>" in words
    result["git"] = None
    assert "changed since" not in html.render(result, [], [], [], {})


def test_captions_that_are_shown_by_a_score_are_not_called_wrong(result: Any, predictions: Any, png: bytes) -> None:
    captions = [
        line | {"scores": {"cider": n / 40}, "blind_scores": {"cider": 0.125}}
        for n, line in enumerate(predictions[:40])
    ]
    result["tasks"]["captioning"]["item_score"] = "cider"
    page = html.render(result, captions, [], [], dict.fromkeys((line["key"] for line in captions), png))
    words = words_of(page, "gallery")
    for part in ("cider 0.000", "cider 0.975", "blind: no (0.125)", "in the order of cider"):
        assert part in words, part
    assert not re.search("wrong|right|not found", words)
    # Without any picture one sentence says so, instead of every card.
    words = words_of(html.render(result, captions, [], [], {}), "gallery")
    assert words.count("Their pictures were not found.") == 1
    assert "no picture of image" not in words
    first = gallery_keys(captions, shown_by={"captioning": "cider"})[0]
    assert words_of(html.render(result, captions, [], [], {first: png}), "gallery").count("no picture of image") == 23


def test_differences_to_the_baselines_are_shown_with_interval_and_p(result: Any) -> None:
    tested = {"exact_match": {"difference": -5.5, "interval": [-9.0, -2.0], "p_value": 0.0004}}
    result["tasks"]["captioning"] |= {"shuffled": {"exact_match": 80.5}, "differences": {"shuffled": tested}}
    words = words_of(html.render(result, [], [], [], {}), "scores")
    assert "75.00 60.00 … 88.00 80.50 \u22125.50 80.50 \u22125.50 , p <0.001 \u22129.00 … \u22122.00 40" in words
    assert "Shuffled are the model's own outputs" in words
