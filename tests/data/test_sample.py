"""Decoding of samples: valid members, and one sentence for each kind of bad sample."""

import io
import json
import zlib

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from prefixvlm.data.sample import Question, Sample, decode, decode_image
from tests.data.conftest import png


def test_everything_a_sample_may_hold() -> None:
    question = {"id": "q1", "question": "what?", "answers": ["a", "b"], "extra": 1}
    content = {"captions": ["one", "zwei ü"], "questions": [question], "extra": None}
    sample = decode("k", {"png": png(255), "json": json.dumps(content).encode()}, "shard x")
    assert sample.captions == ("one", "zwei ü")
    assert sample.questions == (Question("q1", "what?", ("a", "b")),)
    assert sample.image.mode == "RGB"
    assert sample.image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(("extension", "kind"), [("jpg", "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_image_formats(extension: str, kind: str) -> None:
    assert decode("k", {extension: png(kind=kind)}, "x").image.size == (4, 4)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode("k", {"png": png(mode=mode, kind=kind)}, "x").image.mode == "RGB"


def test_transparent_palette_image_decodes_without_a_warning(tmp_path) -> None:
    image = Image.new("P", (4, 4))
    image.save(tmp_path / "p.png", transparency=b"\x00\x10")
    assert decode("k", {"png": (tmp_path / "p.png").read_bytes()}, "x").image.mode == "RGB"


def test_16_bit_grey_keeps_its_levels(tmp_path) -> None:
    Image.fromarray(np.array([[0, 0x4000, 0xFFFF]], np.uint16)).save(tmp_path / "grey.png")
    image = decode("k", {"png": (tmp_path / "grey.png").read_bytes()}, "x").image
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 0x40, 0xFF]


def test_img2dataset_style() -> None:
    members = {"jpg": png(kind="JPEG"), "txt": b" a dog\n", "json": b'{"caption": "a dog", "url": "u", "width": 4}'}
    assert decode("k", members, "x").captions == ("a dog",)
    assert decode("k", members | {"txt": b""}, "x").captions == ()


def test_a_replacement_image_is_used_and_nothing_is_decoded() -> None:
    black = Image.new("RGB", (8, 8))
    assert decode("k", {"png": b"no image"}, "x", black) == Sample("k", black)


def test_groups_labels_choices_and_the_images_of_a_support() -> None:
    question = {"id": "1", "question": "what?", "answers": [], "choices": ["dax", "blicket"], "groups": {"type": "x"}}
    content = {
        "questions": [question],
        "labels": {"shape": "circle"},
        "groups": {"domain": "near"},
        "support": [{"image": "0.png", "text": "a dax"}, {"image": "1.png", "text": "a blicket"}],
    }
    members = {"png": png(), "0.png": png(255), "1.png": png(255 << 16), "json": json.dumps(content).encode()}
    sample = decode("k", members, "x")
    assert sample.questions == (Question("1", "what?", (), ("dax", "blicket"), {"type": "x"}),)
    assert (sample.labels, sample.groups) == ({"shape": "circle"}, {"domain": "near"})
    assert [(image.getpixel((0, 0)), text) for image, text in sample.support] == [
        ((255, 0, 0), "a dax"),
        ((0, 0, 255), "a blicket"),
    ]
    black = Image.new("RGB", (8, 8))
    assert all(image is black for image, _ in decode("k", members, "x", black).support)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_stored_features() -> None:
    features = np.arange(6, dtype=np.float16).reshape(2, 3)
    json_ = b'{"captions": ["a dog"], "support": [{"image": "0.npy", "text": "a dax"}]}'
    sample = decode("k", {"npy": npy(features), "0.npy": npy(features + 1), "json": json_}, "x")
    assert np.array_equal(sample.image, features)
    assert np.array_equal(sample.support[0][0], features + 1)
    assert sample.captions == ("a dog",)
    stored = safetensors.numpy.save({"features": features})
    assert np.array_equal(decode("k", {"safetensors": stored}, "x").image, features)
    with pytest.raises(ValueError, match=r"sample k holds features instead of an image; set shards"):
        _ = sample.picture
    black = Image.new("RGB", (8, 8))
    assert decode("k", {"npy": b"no features"}, "x", black).picture is black


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header declares 20000 x 20000 pixels."""
    data = bytearray(png())
    data[16:24] = (20000).to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


def large() -> bytes:
    """A PNG whose header declares fewer pixels than PIL's limit and more than ours."""
    data = bytearray(png())
    data[16:24] = (8000).to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


def questions(*content: object) -> dict[str, bytes]:
    return {"png": png(), "json": json.dumps({"questions": list(content)}).encode()}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"json": b"{}"}, "exactly one of .jpg, .jpeg, .png, .webp, .npy, .safetensors, but has 0"),
        ({"png": png(), "jpg": png()}, "but has 2"),
        ({"png": b""}, "does not decode"),
        ({"png": b"GIF89a"}, "does not decode"),
        ({"png": png(kind="GIF")}, "does not decode"),
        ({"png": png()[:40]}, "does not decode"),
        ({"png": png(size=(200, 200), kind="JPEG")[:-200]}, "does not decode"),
        ({"png": bomb()}, "does not decode"),
        ({"png": large()}, "8000 x 8000 pixels; at most 50000000"),
        ({"png": b"0" * (2**26 + 1)}, "bytes; at most"),
        ({"png": png(), "json": b"{"}, "json member does not parse"),
        ({"png": png(), "json": b"[" * 100_000}, "json member does not parse"),
        ({"png": png(), "json": b"\xff\xfe\xfd"}, "json member does not parse"),
        ({"png": png(), "json": b"[]"}, "holds a list; it must hold an object"),
        ({"png": png(), "json": b'{"captions": "a dog"}'}, "captions is 'a dog'; it must be a list of texts"),
        ({"png": png(), "json": b'{"captions": ["a", 1]}'}, "captions is"),
        ({"png": png(), "json": b'{"captions": [" "]}'}, "none of them empty"),
        ({"png": png(), "json": rb'{"captions": ["\ud800"]}'}, "not valid Unicode"),
        ({"png": png(), "json": b'{"questions": {}}'}, "questions is {}; it must be a list"),
        (questions("what?"), "a question is 'what?'"),
        (questions({"id": "1", "question": "what?"}), "with id, question and answers"),
        (questions({"id": 1, "question": "what?", "answers": []}), "id and question is"),
        (questions({"id": "1", "question": "what?", "answers": "yes"}), "answers is 'yes'"),
        (
            questions({"id": "1", "question": "what?", "answers": [], "groups": {"type": 3}}),
            "groups is {'type': 3}; it must be",
        ),
        ({"png": png(), "json": b'{"labels": ["circle"]}'}, "labels is ['circle']; it must be an object"),
        ({"png": png(), "json": b'{"support": [{"image": "1.png", "text": "a dax"}]}'}, "a support is"),
        (
            {"png": png(), "0.png": png(), "json": b'{"support": [{"image": "0.png"}]}'},
            "the text of a support is [None]",
        ),
        ({"png": png(), "json": b'{"support": [{"image": ["0.png"], "text": "a dax"}]}'}, "a support is"),
        ({"png": png(), "txt": b"\xff"}, "txt member is not UTF-8"),
        ({"png": png(), "npy": npy(np.ones((1, 2), np.float16))}, "but has 2"),
        ({"npy": b"\x93NUMPY"}, "npy member is not a float16 or float32 array of 2 dimensions"),
    ],
)
def test_bad_samples_are_one_sentence_with_shard_and_key(members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(ValueError, match=r"^shard a.tar, sample k7: ") as error:
        decode("k7", members, "shard a.tar").check()
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_error_messages_have_no_memory_address() -> None:
    with pytest.raises(ValueError, match=r"^the image does not decode \(cannot identify image file\)$"):
        decode_image(b"no image")
