"""Hostile shards: an error of one sentence, or a sample that is skipped and counted. See tests/fuzz."""

import gzip
import io
import pickle
import random
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.shard_source import ShardRef, ShardSource
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.read import MAX_HEADER, read_shard
from tests.data.conftest import png

BLOCK = 512


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
