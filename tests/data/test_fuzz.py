"""Damaged and hostile shards: an error of one sentence, a counted skip, or unchanged samples."""

import gzip
import hashlib
import io
import json
import pickle
import random
import resource
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.shard_source import ShardRef, ShardSource
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.manifest import MANIFEST, Manifest, Shard, Split
from prefixvlm.data.shards.read import MAX_HEADER, read_shard
from tests.data.conftest import encoded, png

MUTATIONS, BLOCK = 1000, 512
Seen = dict[str, tuple[tuple[str, ...], bytes]]


def plain(samples: list[Sample], rng: random.Random) -> list[tuple[str, tuple[tuple[str, ...], bytes]]]:
    return [(sample.key, (sample.captions, sample.picture.tobytes())) for sample in samples]


def every_field(samples: list[Sample], rng: random.Random) -> list[tuple[str, object]]:
    """As a task that uses all fields."""
    return plain([sample.check() for sample in samples], rng)


def member(name: str, data: bytes, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)


def whole_tar() -> bytes:
    """Six samples: each kind of image, with a txt or a json."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), np.uint8)
    tar = b""
    for number, kind in enumerate(("jpg", "png", "webp") * 2):
        image = encoded(Image.fromarray(pixels[number]), {"jpg": "JPEG"}.get(kind, kind.upper()))
        tar += member(f"s{number}.{kind}", image)
        text = json.dumps({"captions": [f"number {number}"]}).encode()
        tar += member(f"s{number}.json", text) if number % 2 else member(f"s{number}.txt", b"a caption")
    return tar + bytes(2 * BLOCK)


def write(folder: Path, data: bytes, sha256: str) -> None:
    """Write the shard beside the manifest of the whole one."""
    (folder / "train-000000.tar").write_bytes(data)
    if not (folder / MANIFEST).is_file():
        split = Split([Shard("train-000000.tar", 6, len(data), sha256)])
        (folder / MANIFEST).write_text(Manifest("a test", "none", 6, {"train": split}).to_json())


def read(path: Path) -> tuple[Seen, int]:
    loader = EvalLoader([ShardSource([ShardRef(path)])], 2, plain, max_bad_fraction=1)
    seen = [pair for batch in loader for pair in batch]
    assert len(dict(seen)) == len(seen)
    return dict(seen), len(loader.bad_samples)


def read_or_error(path: Path) -> tuple[Seen, int, str]:
    try:
        return *read(path), ""
    except ValueError as error:
        return {}, 0, str(error)


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 5, 50))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(data: bytearray, rng: random.Random) -> None:
    first = rng.randrange(len(data))
    del data[first : first + rng.choice((1, 100, BLOCK, 2 * BLOCK))]


def insert(data: bytearray, rng: random.Random) -> None:
    place, size = rng.randrange(len(data)), rng.choice((1, 100, BLOCK))
    data[place:place] = rng.choice((bytes(size), rng.randbytes(size)))


def swap_blocks(data: bytearray, rng: random.Random) -> None:
    first, second = (rng.randrange(len(data) // BLOCK) * BLOCK for _ in range(2))
    data[first : first + BLOCK], data[second : second + BLOCK] = (
        data[second : second + BLOCK],
        data[first : first + BLOCK],
    )


def repeat(data: bytearray, rng: random.Random) -> None:
    first, place = (rng.randrange(len(data) // BLOCK) * BLOCK for _ in range(2))
    data[place:place] = data[first : first + rng.randrange(1, 8) * BLOCK]


def zero_block(data: bytearray, rng: random.Random) -> None:
    first = rng.randrange(len(data) // BLOCK) * BLOCK
    data[first : first + BLOCK] = bytes(BLOCK)


def header(data: bytearray, rng: random.Random) -> None:
    """Change a header, mostly with a correct checksum, so that tarfile accepts it."""
    first = rng.choice([place for place in range(0, len(data), BLOCK) if data[place + 257 : place + 262] == b"ustar"])
    field = rng.choice((range(124, 136), range(156, 157), range(0, 20), range(345, 500)))
    for _ in range(rng.choice((1, 3))):
        data[first + rng.choice(field)] = rng.choice((rng.randrange(256), rng.choice(b"01234567xgLKSVD\x80\xff")))
    if rng.random() < 0.7:
        total = tarfile.calc_chksums(bytes(data[first : first + BLOCK]))[0]
        data[first + 148 : first + 156] = b"%06o\0 " % total


def image(data: bytearray, rng: random.Random) -> None:
    place = rng.choice([data.find(mark) for mark in (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")])
    for _ in range(rng.choice((1, 10))):
        data[place + rng.randrange(400)] = rng.randrange(256)


KINDS = (flip, cut, cut_out, insert, swap_blocks, repeat, zero_block, header, image)


@pytest.mark.timeout(60)
def test_a_damaged_shard_raises_or_is_skipped_and_counted_or_is_unchanged(tmp_path: Path) -> None:
    whole = whole_tar()
    sha256 = hashlib.sha256(whole).hexdigest()
    write(tmp_path, whole, sha256)
    path = tmp_path / "train-000000.tar"
    original, _ = read(path)
    assert len(original) == 6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter[str] = Counter()
    for number in range(MUTATIONS):
        rng = random.Random(number)
        data = bytearray(whole)
        KINDS[number % len(KINDS)](data, rng)
        path.write_bytes(data)
        seen, skipped, error = read_or_error(path)
        if error:
            assert error.startswith(f"shard {path}"), number
            assert "\n" not in error, number
            outcomes["error"] += 1
            continue
        assert len(seen) + skipped == 6, f"mutation {number} loses samples silently"
        changed = any(original.get(key) != value for key, value in seen.items())
        # A reader cannot notice changed bytes of an image or a text that still decode; the sha256 does.
        assert not changed or hashlib.sha256(data).hexdigest() != sha256
        outcomes["changed" if changed else "skipped" if skipped else "unchanged"] += 1
    print(dict(outcomes))
    assert outcomes.total() == MUTATIONS
    assert min(outcomes[outcome] for outcome in ("error", "skipped", "unchanged")) > 20, outcomes
    assert outcomes["changed"] < MUTATIONS / 4, outcomes
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kB
    assert grown < 500_000, f"{grown} kB"


class Touch:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


END = bytes(2 * BLOCK)
LONG = tarfile.GNUTYPE_LONGNAME
STRUCTURE: dict[str, tuple[Any, str]] = {
    "python": (member("a.py", b"import os"), "'a.py' is not KEY.EXTENSION"),
    "absolute path": (member("/etc/a.png", png()), "the key '/etc/a' leaves its folder"),
    "parent folder": (member("x/../../a.png", png()), "the key 'x/../../a' leaves its folder"),
    "symbolic link": (member("a.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not a plain file"),
    "hard link": (member("a.png", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "not a plain file"),
    "device": (member("a.png", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "not a plain file"),
    "pipe": (member("a.png", b"", type=tarfile.FIFOTYPE), "not a plain file"),
    "sparse": (member("a.png", b"", type=tarfile.GNUTYPE_SPARSE), "not a plain file"),
    "huge file": (member("a.png", b"", size=2**40), "at most 67108864 bytes"),
    "negative size": (member("a.png", png(), size=-1024), "is damaged|not a plain file"),
    "negative long name": (member("././@LongLink", b"", type=LONG, size=-1024), "is damaged"),
    "huge long name": (member("././@LongLink", b"", type=LONG, size=2**40), "a header declares"),
    "huge fields": (member("x", b"", type=tarfile.XHDTYPE, size=MAX_HEADER + BLOCK), "a header declares"),
    "fields that lead back": (
        member("x", b"14 size=-1536\n", type=tarfile.XHDTYPE) + member("a.png", png()),
        "damaged|not a plain",
    ),
    "long names without end": (member("././@LongLink", b"x", type=LONG) * 2000, "is damaged"),
    "samples after the end": (member("a.png", png()) + END + member("b.png", png()), "goes on after its end"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("attack", STRUCTURE)
def test_hostile_structure(tmp_path: Path, attack: str) -> None:
    content, reason = STRUCTURE[attack]
    path = tmp_path / "x.tar"
    path.write_bytes(content + END)
    with pytest.raises(ValueError, match=rf"^shard {path}[^\n]*({reason})[^\n]*$"):
        list(read_shard(path))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    path, touched = tmp_path / "x.tar", tmp_path / "touched"
    for extension in ("pickle", "pkl", "pyd", "pth", "pt"):
        path.write_bytes(member(f"a.{extension}", pickle.dumps(Touch(touched))) + END)
        with pytest.raises(ValueError, match=f"'a.{extension}' is not KEY.EXTENSION"):
            list(read_shard(path))
    assert not touched.exists()


def test_compressed_tars_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(ValueError, match="not an uncompressed tar"):
        list(read_shard(path))


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


def npy_of_objects(path: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch(path)], object), allow_pickle=True)
    return buffer.getvalue()


CONTENT: dict[str, tuple[dict[str, bytes], str]] = {
    "PNG bomb": ({"png": bomb()}, "could be decompression bomb"),
    "deep JSON": ({"png": png(), "json": b"[" * 10**6}, "the json member does not parse"),
    "JSON of 500 levels": ({"png": png(), "json": b'{"x": ' * 500 + b"1" + b"}" * 500}, "nested more than 100 levels"),
    "401 digits": ({"png": png(), "json": b'{"values": {"a": 1%s}}' % (b"0" * 400)}, "a number has 401 digits"),
    "5000 digits": ({"png": png(), "json": b'{"values": {"a": 1%s}}' % (b"0" * 4999)}, "a number has 5000 digits"),
    "infinite": ({"png": png(), "json": b'{"values": {"a": 1e999}}'}, "values has inf; it must be a number"),
    "lone surrogate": ({"png": png(), "json": b'{"captions": ["\\ud800"]}'}, "not valid Unicode"),
    "not UTF-8": ({"png": png(), "txt": b"\xff\xfe"}, "the txt member is not UTF-8"),
    "PostScript": ({"png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "the image does not decode"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("attack", CONTENT)
def test_hostile_content_is_skipped_and_counted(tmp_path: Path, attack: str) -> None:
    members, reason = CONTENT[attack]
    path = tmp_path / "x.tar"
    good = member("good.png", png()) + member("good.txt", b"a caption")
    path.write_bytes(b"".join(member(f"bad.{name}", data) for name, data in members.items()) + good + END)
    loader = EvalLoader([ShardSource([ShardRef(path)])], 2, every_field, max_bad_fraction=1)
    assert [key for batch in loader for key, _ in batch] == ["good"]
    (reason_of_skip,) = loader.bad_samples.bad.values()
    assert reason_of_skip.startswith(f"shard {path}, sample bad: ")
    assert reason in reason_of_skip


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    path, touched = tmp_path / "x.tar", tmp_path / "touched"
    path.write_bytes(member("a.npy", npy_of_objects(touched)) + END)
    with pytest.raises(ValueError, match=rf"shard {path}, sample a: the npy member"):
        list(EvalLoader([ShardSource([ShardRef(path)])], 1, plain))
    assert not touched.exists()


def test_urls_run_no_shell(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with pytest.raises(ValueError, match="no shell is ever run"):
        find_sources(f"pipe:touch {touched} # {{split}}.tar", "train", ShardCache())
    assert not touched.exists()
