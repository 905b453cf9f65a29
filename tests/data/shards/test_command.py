"""`prefixvlm shards`: options, terms of data sets, and the manifest."""

import hashlib
import io
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prefixvlm import cli
from prefixvlm.data import sources
from prefixvlm.data.sample import decode
from prefixvlm.data.shards.manifest import MANIFEST
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.reencode import ReencodeOptions
from tests.data.conftest import Command, encoded

EASY_VQA = {
    "train-000000.tar": "afe1b9c82c37eba63cd79d817d55746b9ce4c1cf7ad58241337d9f50c8146112",
    "train-000001.tar": "1334e5f44076b368cbbeea3404ea5241ee812845a7ca4d4d53d3687a9cabcf3f",
    "train-000002.tar": "32a199c727fe5ecf5c825d4ab53a693786ab054e6337e72d9a29fffd8a7ed0c0",
    "train-000003.tar": "488ed255405db4274a80be33376440672f4c2d0212bfda73df75c9903fe50f08",
    "val-000000.tar": "dfab941865f7feb0a34c66d3121f8616d0c9d20c761a2bf9af86ab732d7eda7e",
    "test-000000.tar": "7172a5e326d6b610b80d1aa5150c28aac31a8d98bbe7cdd0342b1e65264d5769",
}


def saved(path: Path, image: Image.Image, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **more)
    return path


def samples_of(path: Path) -> dict[str, dict[str, bytes]]:
    return dict(read_shard(path))


def test_the_bytes_of_easy_vqa_are_stable(tmp_path: Path, command: Command) -> None:
    command("easy-vqa", workers=2)
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "out").glob("*.tar")}
    assert found == EASY_VQA


def test_images_keep_their_bytes_unless_asked(tmp_path: Path, command: Command) -> None:
    wide = saved(tmp_path / "images" / "a" / "wide.png", Image.new("RGB", (300, 100), "red"))
    small = saved(tmp_path / "images" / "a" / "small.jpg", Image.new("RGB", (40, 30), "blue"), quality=30)
    bad = tmp_path / "images" / "a" / "bad.jpg"
    bad.write_bytes(wide.read_bytes()[:60])
    command("image-folder", "--folder", tmp_path / "images")
    found = samples_of(tmp_path / "out" / "train-000000.tar")
    assert found["a/wide"]["png"] == wide.read_bytes()
    assert found["a/small"]["jpg"] == small.read_bytes()
    assert "does not hold these shards" in command(
        "image-folder", "--folder", tmp_path / "images", "--image-size", 50, code=2
    )
    (tmp_path / "out").rename(tmp_path / "before")
    shown = command("image-folder", "--folder", tmp_path / "images", "--image-size", 50, "--image-quality", 80)
    assert "1 train samples are left out" in shown
    found = samples_of(tmp_path / "out" / "train-000000.tar")
    assert {name: list(members) for name, members in found.items()} == {
        "a/small": ["jpg", "json"],
        "a/wide": ["jpg", "json"],
    }
    assert Image.open(io.BytesIO(found["a/wide"]["jpg"])).size == (150, 50)
    assert Image.open(io.BytesIO(found["a/small"]["jpg"])).size == (40, 30)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest["options"] == {"image_size": 50, "image_quality": 80}
    assert "does not decode" in manifest["splits"]["train"]["left_out"]["a/bad"]


def test_encoding_applies_the_orientation_and_the_quality() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    halves = Image.new("RGB", (64, 32), "red")
    halves.paste("blue", (32, 0, 64, 32))
    data = encoded(halves, "JPEG", exif=turned)
    image = Image.open(io.BytesIO(ReencodeOptions(image_size=16)({"jpg": data})["jpg"]))
    assert image.size == (16, 32)
    assert image.getpixel((8, 2))[0] > 200, "red is on top"
    assert 0x0112 not in image.getexif(), "it would be turned again"
    assert ReencodeOptions()({"jpg": data}) == {"jpg": data}
    noise = Image.effect_noise((64, 64), 90)
    sizes = [
        len(ReencodeOptions(image_quality=quality)({"jpg": encoded(noise, "JPEG")})["jpg"]) for quality in (10, 50, 95)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


def test_resizing_averages_over_the_pixels_that_it_joins() -> None:
    board = Image.new("L", (64, 64))
    board.putdata([255 * ((x + y) % 2) for y in range(64) for x in range(64)])
    small = Image.open(io.BytesIO(ReencodeOptions(image_size=8)({"png": encoded(board)})["jpg"])).convert("L")
    assert all(110 < value < 145 for value in small.tobytes())


def test_the_images_of_a_support_are_made_smaller_too() -> None:
    image = encoded(Image.new("RGB", (20, 20), "red"))
    content = {"support": [{"image": "0.png", "text": "a dax"}], "captions": ["x"]}
    members = ReencodeOptions(image_size=10)({"png": image, "0.png": image, "json": json.dumps(content).encode()})
    sample = decode("k", members, "here")
    assert sorted(members) == ["0.jpg", "jpg", "json"]
    assert [(found.size, text) for found, text in sample.support] == [((10, 10), "a dax")]
    assert sample.captions == ("x",)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--image-size", 0, "the image size is 0; set --image-size"),
        ("--image-quality", 101, "the image quality is 101; set --image-quality to 1 ... 100"),
        ("--samples-per-shard", 0, "argument --samples-per-shard: 0 is not 1 or more"),
        ("--workers", 0, "argument --workers: 0 is not 1 or more"),
    ],
)
def test_wrong_options(command: Command, option: str, value: int, sentence: str) -> None:
    assert sentence in command("easy-vqa", option, value, code=2)


@pytest.mark.parametrize("size", [15, 100_000])
def test_sizes_of_openmoji(command: Command, size: int) -> None:
    assert f"the size is {size}; set --size to 16 ... 2048" in command("openmoji", "--size", size, code=2)


def test_help_has_single_percent_signs_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("openmoji", "80 % train"), ("verify", "exit code 0 if it is whole, and else with 2")):
        monkeypatch.setattr(sys, "argv", ["prefixvlm", "shards", name, "--help"])
        with pytest.raises(SystemExit):
            cli.main()
        assert text in " ".join(capsys.readouterr().out.split())


def test_terms_are_shown_and_must_be_accepted(tmp_path: Path, command: Command) -> None:
    with_terms = {name for name in sources.names() if sources.load(name).TERMS}
    assert with_terms == {"fast-binding", "flickr30k", "flickr8k", "flickr-tokens"}
    shown = command("fast-binding", "--episodes", tmp_path, code=2)
    assert "non-commercial research" in shown
    assert "if you accept them, give --accept-terms" in shown
    assert "has no N shots" in command("fast-binding", "--episodes", tmp_path, "--accept-terms", code=2)
    assert "--accept-terms --out data/flickr30k" in sources.how_to_make("flickr30k")
    assert "--accept-terms" not in sources.how_to_make("coco")


def test_the_manifest(tmp_path: Path, command: Command) -> None:
    (tmp_path / "t.jsonl").write_text(
        "\n".join(
            json.dumps(row)
            for row in (
                {"image": "a.png", "caption": "four"},
                {"image": "a.png", "question": "what is it?", "answer": "it"},
                {"image": "b.png", "label": "thing"},
            )
        )
    )
    for name in "ab":
        saved(tmp_path / f"{name}.png", Image.new("RGB", (8, 8)))
    command("table", "--table", tmp_path / "t.jsonl", "--images", tmp_path)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    (shard,) = manifest["splits"]["train"]["shards"]
    path = tmp_path / "out" / "train-000000.tar"
    assert shard == {
        "name": path.name,
        "samples": 2,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    lengths = tmp_path / "out" / "train.text_lengths"
    assert lengths.read_bytes() == struct.pack("<2H", 8, 0)
    assert manifest["splits"]["train"]["text_lengths"] == {
        "name": lengths.name,
        "bytes": 4,
        "sha256": hashlib.sha256(lengths.read_bytes()).hexdigest(),
        "bytes_each": 2,
    }
    assert manifest["licence"] == "one's own"
    assert "t.jsonl (sha256 " in manifest["source"]
    assert manifest["options"] == {}
