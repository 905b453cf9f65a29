"""Headers that are parsed in part, against tarfile."""

import random
import tarfile

import pytest

from prefixvlm.data.tar_headers import Header


def parsed(kind: type[tarfile.TarInfo], block: bytes) -> tuple[object, ...]:
    info = kind.frombuf(block, "utf-8", "surrogateescape")
    return info.name, info.size, info.type, info.isreg(), info.isdir(), info.issparse()


def with_checksum(block: bytes) -> bytes:
    return block[:148] + b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 256) + block[156:]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.jpg", "folder/a.0.jpg", "ä.txt", "x/" * 60 + "a.jpg"])
def test_headers_of_writers(format: int, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.size = 12345
    data = info.tobuf(format)
    for start in range(0, len(data), tarfile.BLOCKSIZE):
        block = data[start : start + tarfile.BLOCKSIZE]
        if block[257:262] == b"ustar":  # not the data of a long name
            assert parsed(Header, block) == parsed(tarfile.TarInfo, block)


FIELDS = [*range(14), *range(124, 136), *range(148, 157), 345]  # name, size, checksum, type, prefix


def test_damaged_headers_are_read_as_tarfile_reads_them() -> None:
    rng, info, accepted = random.Random(0), tarfile.TarInfo("folder/a.jpg"), 0
    info.size = 12345
    for number in range(4000):
        block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(rng.randrange(1, 3)):
            block[rng.choice(FIELDS)] = rng.randrange(256)
        damaged = with_checksum(bytes(block)) if number % 2 else bytes(block)
        try:
            expected = parsed(tarfile.TarInfo, damaged)
        except tarfile.HeaderError:
            with pytest.raises(tarfile.HeaderError):
                parsed(Header, damaged)
        else:
            accepted += 1
            assert parsed(Header, damaged) == expected
    assert 500 < accepted < 3500
