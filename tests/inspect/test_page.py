"""The page of a checkpoint and the command that writes it."""

import re
from argparse import ArgumentParser
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from prefixvlm.inference.captioner import Captioner
from prefixvlm.inspect.attribution import METHODS
from prefixvlm.inspect.command import add_inspect
from prefixvlm.inspect.faithfulness import RANDOM
from prefixvlm.inspect.page import TITLES, render, visible
from prefixvlm.inspect.pages import FOLDER, Asked, explain_all, write_pages
from tests.inference.test_predictor import made  # noqa: F401  # a fixture

QUESTION = "what <b>colour</b>?"
VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Page(HTMLParser):
    """Attributes of all tags by name, the texts, and whether each tag is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.setdefault(tag, []).append(dict(attributes))
        if tag not in VOID and not any(each in ("svg",) for each in self.open):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and (tag == "svg" or "svg" not in self.open):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def run(*arguments):
    parser = ArgumentParser()
    add_inspect(parser)
    parsed = parser.parse_args([str(each) for each in arguments])
    parsed.run(parsed)


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):  # noqa: F811
    """(the page of two images, what the command prints)"""
    out = tmp_path_factory.mktemp("page") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        run(*made[2][:2], "--ckpt", made[1], "--question", QUESTION, "--out", out)
    return out.read_text(encoding="utf-8"), lines


def test_a_page_is_whole_and_needs_nothing_from_outside(written):
    page = Page(written[0])
    assert page.open == ["html", "body"] or page.open == []
    assert not {"script", "link", "iframe"} & page.tags.keys()
    assert all(each["src"].startswith("data:image/png;base64,") for each in page.tags["img"])
    assert all("alt" in each for each in page.tags["img"])
    targets = [each["href"] for each in page.tags["a"]]
    assert all(target[0] == "#" for target in targets)
    ids = {each["id"] for each in page.tags["section"]}
    assert {target[1:] for target in targets} == ids
    assert "http:" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<svg.*?</svg>', "", written[0], flags=re.DOTALL)


def test_a_page_shows_every_part_of_every_image(made, written):  # noqa: F811
    page, text = Page(written[0]), " ".join(" ".join(Page(written[0]).texts).split())
    model = Captioner(made[1])
    for path in made[2][:2]:
        said = model.log_probs(path, model.answer(path, QUESTION), QUESTION)
        assert str(path) in text
        for token, _ in said[:-1]:
            assert visible(token) in text
            for method in METHODS:
                assert any(each["alt"] == f"{TITLES[method]} for {visible(token)}" for each in page.tags["img"])
    assert QUESTION in text, "a question is text and not markup"
    assert text.count("Attention is not explanation") == 2
    assert text.count("all left out: a black image") == 2
    assert f"of {made[2][1]}" in text
    assert "95 % bootstrap intervals over images" in text


def test_the_command_prints_the_table(written):
    *lines, last = written[1]
    assert [line.split()[0] for line in lines] == [*METHODS, RANDOM]
    assert re.search(r"deletion \d\.\d{3} \[.*\]  gain .*insertion .*gain ", lines[0])
    assert last.endswith("page.html")


def test_bad_images_are_named_and_the_others_explained(made, tmp_path, capsys, monkeypatch):  # noqa: F811
    silent = tmp_path / "silent.png"
    silent.write_bytes(made[2][3].read_bytes())
    (tmp_path / "bad.png").write_text("no image")
    answers = Captioner.answers

    def says_nothing(self, images, *arguments):
        found = answers(self, images, *arguments)
        blank = replace(found[0].prediction, prediction="")
        is_white = images[0].getpixel((60, 9)) == (255, 255, 255)
        return [replace(found[0], prediction=blank)] if is_white else found

    monkeypatch.setattr(Captioner, "answers", says_nothing)
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit) as exit_code:
        run(made[2][0], tmp_path, "--ckpt", made[1], "--out", out)
    assert exit_code.value.code == 1
    error = capsys.readouterr().err
    assert "error: 2 images could not be explained:\n" in error
    assert f"  {tmp_path}/bad.png: the image does not decode" in error
    assert f"  {silent}: the model says nothing about this image" in error
    text = out.read_text(encoding="utf-8")
    assert str(made[2][0]) in text
    assert "Faithfulness over 1 image<" in text
    with pytest.raises(ValueError, match=r"bad\.png: the image does not decode"):
        run(tmp_path / "bad.png", "--ckpt", made[1], "--out", tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.png", "--ckpt", "CKPT"], r"there is no image no\.png"),
        (["IMAGE", "--ckpt", "no.ckpt"], r"there is no checkpoint file no\.ckpt; set --ckpt"),
        (["IMAGE", "--ckpt", "CKPT", "--question", " "], "--question has no words"),
        (["IMAGE", "--ckpt", "CKPT", "--text", ""], "--text has no words"),
        (["IMAGE", "--ckpt", "CKPT", "--out", "x.pdf"], r"--out is x\.pdf; it must end in \.html"),
        (["IMAGE", "--ckpt", "CKPT", "--out", "no/x.html"], r"--out is no/x\.html; .*folder that exists"),
        (["-", "--ckpt", "CKPT"], "does not read standard input"),
    ],
)
def test_wrong_arguments_are_one_sentence(made, monkeypatch, arguments, message):  # noqa: F811
    monkeypatch.setattr("prefixvlm.inference.captioner.Captioner", None)  # refused before the checkpoint is loaded
    names = {"CKPT": str(made[1]), "IMAGE": str(made[2][0])}
    with pytest.raises((ValueError, OSError), match=message):
        run(*[names.get(each, each) for each in arguments])


def test_another_image_and_another_text(made):  # noqa: F811
    model = Captioner(made[1])
    (found,) = explain_all(model, [Asked("a", made[2][0], text="xyz")], other=("b", made[2][1]))
    assert "".join(found.tokens).strip() == "xyz"
    assert found.changes.whole[-1].name == "of b"
    torch.testing.assert_close(found.changes.log_probs, found.log_probs)
    alone = next(explain_all(model, [Asked("a", made[2][0], text="xyz")]))
    assert [change.name for change in alone.changes.whole] == [change.name for change in found.changes.whole[:-1]]
    assert "Faithfulness over 1 image" in render("x.ckpt", [alone])


def test_pages_of_an_evaluation(made, tmp_path):  # noqa: F811
    model, paths = Captioner(made[1]), made[2]
    encoded = {f"k/{number}": path.read_bytes() for number, path in enumerate(paths)}
    prompt = model.batch_of(paths[0], "is it?").rows[0][0].text
    lines = [
        {"task": "vqa", "key": key, "id": key, "prompt": prompt, "prediction": "ab", "correct": float(place == 2)}
        for place, key in enumerate(encoded)
    ]
    asked = []
    pages = write_pages(
        tmp_path, model, lines, lambda keys: {key: encoded[key] for key in asked.extend(keys) or keys}, 2
    )
    assert asked == ["k/0", "k/1"]
    assert pages == {"k/0": f"{FOLDER}/0-k_0.html", "k/1": f"{FOLDER}/1-k_1.html"}
    text = (tmp_path / pages["k/1"]).read_text(encoding="utf-8")
    assert '<p class="question">is it?</p>' in text
    assert "<b>ab</b>" in text
    assert "of k/0" in text
    with pytest.raises(ValueError, match="nothing that captioning, vqa predicted can be explained; set inspect=0"):
        write_pages(tmp_path, model, [{**lines[0], "prediction": " "}], lambda keys: {}, 2)
