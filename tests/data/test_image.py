"""Images become the same upright RGB pixels everywhere, whatever their format, mode and metadata."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from prefixvlm.data.image import ImageDecoder, decode_image, read_image
from prefixvlm.data.loading.demonstration_pool import DemonstrationPool
from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.sample import decode
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.write import write_shards
from tests.data.conftest import encoded

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]


def oriented(orientation: int, kind: str = "PNG") -> bytes:
    """An image of 2 x 3 blocks of 16 pixels, whose upright pixels are the same for all orientations."""
    image = Image.fromarray(np.array(COLOURS, np.uint8).reshape(3, 2, 3).repeat(16, 0).repeat(16, 1))
    stored = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]  # the inverse
    exif = Image.Exif()
    exif[0x0112] = stored
    image.info["exif"] = exif.tobytes()
    image = ImageOps.exif_transpose(image)
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif.tobytes(), **({} if kind == "PNG" else {"quality": 95}))


def blocks(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[8::16, 8::16].reshape(-1, 3).astype(int)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright_once(orientation: int, kind: str) -> None:
    data = oriented(orientation, kind)
    assert Image.open(io.BytesIO(data)).size == ((32, 48) if orientation < 5 else (48, 32))
    image = decode_image(data)
    assert image.size == (32, 48) == decode_image.header(data)[:2]
    assert abs(blocks(image) - COLOURS).max() < 60
    assert ImageOps.exif_transpose(image).size == (32, 48)
    again = ReencodeOptions(image_quality=95)({"png": data})["jpg"]
    assert Image.open(io.BytesIO(again)).getexif().get(0x0112, 1) == 1
    assert abs(blocks(decode_image(again)) - COLOURS).max() < 60


def test_every_reader_of_shards_sees_them_upright(tmp_path: Path) -> None:
    members = {"png": oriented(6), "0.png": oriented(8)}
    content = {"captions": ["a"], "support": [{"image": "0.png", "text": "b"}]}
    write_shards({"train": [("k", {**members, "json": json.dumps(content).encode()})]}, tmp_path / "s", "a", "b")
    source = find_sources(str(tmp_path / "s"), "train", ShardCache())
    (sample,) = next(iter(EvalLoader(source, 1, lambda samples, rng: samples)))
    (pooled,) = [DemonstrationPool([tmp_path / "s" / "train-000000.tar"], 1, 0)[0]]
    for image in (sample.image, sample.support[0][0], pooled.image):
        assert (blocks(image) == COLOURS).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("background", "ground"), [("white", 255), ("#808080", 128)])
def test_transparent_pixels_show_the_background(mode: str, kind: str, background: str, ground: int) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[1:3, 1:3, 3] = 255  # an opaque black square on transparent black
    pixels[0, 0, 3] = 128  # half transparent
    image = Image.fromarray(pixels)
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    decoder = ImageDecoder(background)
    got = np.asarray(decoder(data))
    assert (got[1:3, 1:3] == 0).all()
    assert (got[3] == ground).all()
    assert abs(int(got[0, 0, 0]) - ground // 2) <= 1
    sample = decode("k", {kind.lower(): data}, "x", decoder=decoder)
    assert (np.asarray(sample.image) == got).all()
    small = ReencodeOptions(image_quality=100, decoder=decoder)({"png": data})["jpg"]
    assert abs(np.asarray(decode_image(small)).astype(int) - got).max() < 100


def png_file(depth: int, colour_type: int, row: bytes, transparent: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour_type, 0, 0, 0))
    tables = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + tables + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (png_file(16, 0, struct.pack(">2H", 0x1234, 0xFFFF)), [(0x12,) * 3, (255,) * 3]),
        (png_file(16, 0, struct.pack(">2H", 0x1234, 0x8000), struct.pack(">H", 0x1234)), [(255,) * 3, (128,) * 3]),
        (png_file(8, 0, bytes([0, 7]), struct.pack(">H", 0)), [(255,) * 3, (7,) * 3]),
        (png_file(1, 0, bytes([0b01000000]), struct.pack(">H", 1)), [(0,) * 3, (255,) * 3]),
        (png_file(8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 1, 2, 3)), [(255,) * 3, (4, 5, 6)]),
        (
            png_file(16, 2, struct.pack(">6H", 999, 888, 777, 1, 2, 0xFF00), struct.pack(">3H", 999, 888, 777)),
            [(255,) * 3, (0, 0, 255)],
        ),
        (png_file(16, 4, struct.pack(">4H", 0x1234, 0, 0x8000, 0xFFFF)), [(255,) * 3, (128,) * 3]),
        (png_file(16, 6, struct.pack(">8H", 1, 2, 3, 0, 0, 0, 0xFF00, 0xFFFF)), [(255,) * 3, (0, 0, 255)]),
    ],
    ids=["L16", "L16 tRNS", "L tRNS", "1 tRNS", "RGB tRNS", "RGB16 tRNS", "LA16", "RGBA16"],
)
def test_depths_and_transparent_colours_of_png(data: bytes, pixels: list[tuple[int, int, int]]) -> None:
    image = decode_image(data)
    assert [image.getpixel((x, 0)) for x in (0, 1)] == pixels


def test_cmyk_icc_and_animations() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = decode_image(encoded(ink, "JPEG", quality=95)).getpixel((8, 8))
    assert red[0] > 200 > 60 > red[1]
    # The profile is passed over, as in the training of CLIP, and not handed on to who saves the pixels.
    profiled = encoded(Image.new("RGB", (4, 4), (10, 20, 30)), icc_profile=b"profile")
    image = decode_image(profiled)
    assert image.getpixel((0, 0)) == (10, 20, 30)
    assert "icc_profile" not in Image.open(io.BytesIO(encoded(image))).info
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("MPO", {})):
        moving = decode_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        assert moving.getpixel((0, 0))[0] > 250 > 5 > moving.getpixel((0, 0))[2]


@pytest.mark.parametrize("exif", [b"Exif\0\0no TIFF header", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"])
@pytest.mark.filterwarnings("error")
def test_damaged_exif_data_is_passed_over(exif: bytes) -> None:
    assert decode_image(encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif)).size == (6, 4)


def test_the_limit_of_pixels_is_an_option_that_the_message_names() -> None:
    data = encoded(Image.new("L", (30, 20)))
    with pytest.raises(ValueError, match=r"30 x 20 pixels; at most 599 .* set data.max_pixels, or --max-pixels of"):
        ImageDecoder(max_pixels=599)(data)
    assert ImageDecoder(max_pixels=600)(data).size == (30, 20)
    large = encoded(Image.new("1", (11_000, 10_000)))
    assert ImageDecoder(max_pixels=110_000_000).header(large)[:2] == (11_000, 10_000)
    options = ReencodeOptions(image_size=100, decoder=ImageDecoder(max_pixels=110_000_000))
    assert decode_image(options({"png": large})["jpg"]).size == (110, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": "whit"}, "background is 'whit'; set it to a colour"),
        ({"background": None}, "background is None"),
        ({"max_pixels": 0}, r"max_pixels is 0; set it to 1 ... 178956970"),
        ({"max_pixels": 10**9}, "max_pixels is 1000000000"),
        ({"max_pixels": "many"}, "max_pixels is 'many'"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageDecoder(**options)


def test_background_needs_reencoding() -> None:
    with pytest.raises(ValueError, match="--background is of images that are re-encoded; give --image-size"):
        ReencodeOptions(decoder=ImageDecoder("black"))


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, what in ((tmp_path / "pipe.png", "a pipe"), (Path("/dev/zero"), "a pipe or a device"),
                       (tmp_path, "a folder")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{path} is {what}.*; give the path of an image file"):
            read_image(path)
