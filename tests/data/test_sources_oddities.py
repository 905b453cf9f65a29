"""Data of strangers: names that leave the folder of images, hidden files, blank captions, misspelt columns."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from prefixvlm.data.shards.command import by_reason
from prefixvlm.data.shards.manifest import read_manifest
from prefixvlm.data.shards.read import read_shard
from tests.data.conftest import Command, png


def folder_of(tmp_path: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(png(number))
    return tmp_path / "images"


def contents(out: Path) -> dict[str, Any]:
    return {key: json.loads(members["json"]) for path in sorted(out.glob("*.tar")) for key, members in read_shard(path)}


def coco(tmp_path: Path, name: str, captions: list[object]) -> Path:
    annotations = [{"id": 70 + number, "image_id": 1, "caption": each} for number, each in enumerate(captions)]
    content = {"images": [{"id": 1, "file_name": name}], "annotations": annotations}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path / "a.json"


def karpathy(tmp_path: Path, name: str, captions: list[object]) -> Path:
    image = {"filename": name, "split": "train", "sentences": [{"raw": each} for each in captions]}
    others = [image | {"split": split, "filename": "a.png"} for split in ("val", "test")]
    (tmp_path / "k.json").write_text(json.dumps({"images": [image, *others]}))
    return tmp_path / "k.json"


@pytest.mark.parametrize(
    "name", ["../secret.png", "{}/secret.png", "link.png", "linked/secret.png", "x/../../secret.png"]
)
@pytest.mark.parametrize("source", ["table", "coco-captions", "flickr8k", "flickr-tokens"])
def test_names_do_not_leave_the_folder_of_images(tmp_path: Path, command: Command, name: str, source: str) -> None:
    images, name = folder_of(tmp_path, "a.png", "x/b.png"), name.format(tmp_path)
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "secret.jpg").write_bytes(png())
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    (images / "link.jpg").symlink_to(tmp_path / "secret.png")
    (images / "linked").symlink_to(tmp_path)
    stem = name.removesuffix(".png")
    (tmp_path / "t.csv").write_text(f"image,caption\n{name},a dog\n")
    (tmp_path / "tokens").write_text(f"{stem}.jpg#0\ta dog\n")
    (tmp_path / "list").write_text(f"{stem}.jpg\n")
    arguments = {
        "table": ["--table", tmp_path / "t.csv"],
        "coco-captions": ["--train-annotations", coco(tmp_path, name, ["a dog"])],
        "flickr8k": ["--annotations", karpathy(tmp_path, name, ["a dog"]), "--accept-terms"],
        "flickr-tokens": ["--tokens", tmp_path / "tokens", "--train-list", tmp_path / "list", "--accept-terms"],
    }[source]
    shown = command(source, *arguments, "--images", images, code=2)
    assert f"is not in {images}" in shown or f"is a link that leaves {images}" in shown
    assert name[:40] in shown or Path(name).stem in shown  # a long path is named by its beginning
    assert not (tmp_path / "out").exists()


def test_links_within_the_folder_and_a_folder_that_is_a_link_are_fine(tmp_path: Path, command: Command) -> None:
    images = folder_of(tmp_path, "a.png")
    (images / "b.png").symlink_to("a.png")
    (tmp_path / "there").symlink_to(images)
    (tmp_path / "t.csv").write_text("image,caption\nb.png,a dog\n./a.png,a cat\n")
    command("table", "--table", tmp_path / "t.csv", "--images", tmp_path / "there")
    assert {content["captions"][0] for content in contents(tmp_path / "out").values()} == {"a dog", "a cat"}


@pytest.mark.parametrize("splits", [False, True])
def test_hidden_files_and_folders_are_no_classes(tmp_path: Path, command: Command, splits: bool) -> None:
    top = "train/" if splits else ""
    hidden = [f"{top}.ipynb_checkpoints/1.png", f"{top}cat/.ipynb_checkpoints/2.png", f"{top}__MACOSX/cat/._1.png",
              f"{top}cat/._1.png", ".Trash/train/dog/5.png", ".DS_Store"]  # fmt: skip
    folder = folder_of(tmp_path, f"{top}cat/1.png", f"{top}cat/2.png", f"{top}dog/deep/3.png", *hidden)
    shown = command("image-folder", "--folder", folder)
    assert "6 hidden files are passed over, as " in shown
    labels = {key: content["labels"]["label"] for key, content in contents(tmp_path / "out").items()}
    assert labels == {"cat/1": "cat", "cat/2": "cat", "dog/deep/3": "dog"}


@pytest.mark.parametrize("source", ["coco-captions", "flickr8k", "table"])
def test_a_blank_caption_is_left_out_alone_and_counted(tmp_path: Path, command: Command, source: str) -> None:
    images, texts = folder_of(tmp_path, "a.png"), ["one", "\n", "two", "", "three"]
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "a.png", "captions": texts}))
    arguments = {
        "coco-captions": ["--train-annotations", coco(tmp_path, "a.png", list(texts))],
        "flickr8k": ["--annotations", karpathy(tmp_path, "a.png", list(texts)), "--splits", "train", "--accept-terms"],
        "table": ["--table", tmp_path / "t.jsonl"],
    }[source]
    shown = command(source, *arguments, "--images", images)
    assert [content["captions"] for content in contents(tmp_path / "out").values()] == [["one", "two", "three"]]
    assert "  2: the caption is blank (as " in shown
    assert len(read_manifest(tmp_path / "out").splits["train"].left_out) == 2


def test_a_caption_that_is_no_text_is_named_with_its_annotation(tmp_path: Path, command: Command) -> None:
    arguments = (
        "--train-annotations",
        coco(tmp_path, "a.png", ["one", None]),
        "--images",
        folder_of(tmp_path, "a.png"),
    )
    shown = command("coco-captions", *arguments, code=2)
    assert "'caption' is None, which is no str, in {'id': 71, 'image_id': 1, 'caption': None}" in shown


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], ["open", "closed"]),
        (["--separator", ""], ["open|closed; a sign"]),
        (["--separator", ";"], ["open|closed", "a sign"]),
    ],
)
def test_the_separator_of_captions(tmp_path: Path, command: Command, more: list[str], expected: list[str]) -> None:
    images = folder_of(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("image,caption\na.png,open|closed; a sign\n")
    shown = command("table", "--table", tmp_path / "t.csv", "--images", images, *more)
    (content,) = contents(tmp_path / "out").values()
    assert content["captions"] == ([*expected[:1], "closed; a sign"] if not more else expected)
    assert ("1 cells were divided at" in shown) == (len(expected) > 1)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,captoin", "has a column 'captoin', which is not known; rename it to caption"),
        ("image,Caption", "has a column 'Caption', which is not known; rename it to caption"),
        ("Image,caption", "has a column 'Image', which is not known; rename it to image"),
        ("image,labels", "has a column 'labels', which is not known; rename it to label"),
        ("image,text", "has no texts: of its columns, 'text' are not known; rename one to caption"),
    ],
)
def test_a_misspelt_column_is_named(tmp_path: Path, command: Command, header: str, message: str) -> None:
    images = folder_of(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text(f"{header}\na.png,a dog\n")
    assert message in command("table", "--table", tmp_path / "t.csv", "--images", images, code=2)
    line = dict(zip(header.split(","), ("a.png", "a dog"), strict=True))
    (tmp_path / "t.jsonl").write_text(json.dumps(line))
    assert message in command("table", "--table", tmp_path / "t.jsonl", "--images", images, code=2)


def test_further_columns_are_said(tmp_path: Path, command: Command) -> None:
    images = folder_of(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("image,caption,photographer,caption_de\na.png,a dog,me,ein Hund\n")
    shown = command("table", "--table", tmp_path / "t.csv", "--images", images)
    assert "'photographer', 'caption_de' are not used" in shown


def test_reasons_are_counted_with_an_example() -> None:
    left_out = {f"k{n}": f"train, sample k{n}: the image does not decode ({n} x 9 pixels)" for n in range(3)}
    left_out |= {"x": "the image photos/x.png cannot be read (No such file)", "y": "the caption is blank"}
    first, *others = by_reason(left_out)
    assert first == "  3: the image does not decode (0 x 9 pixels) (as k0)"
    assert others == [
        "  1: the image photos/x.png cannot be read (No such file) (as x)",
        "  1: the caption is blank (as y)",
    ]


def test_an_image_that_is_no_file_is_left_out(tmp_path: Path, command: Command) -> None:
    images = folder_of(tmp_path, "a.png", "c.png")
    (images / "b.png").mkdir()
    (tmp_path / "t.csv").write_text("image,caption\na.png,a dog\nb.png,a cat\nc.png,a cow\n")
    shown = command("table", "--table", tmp_path / "t.csv", "--images", images)
    assert "b.png is a folder; give the path of an image file (as b)" in shown
    shutil.rmtree(images)
