"""Headers of tars for tarfile: bounded, and of plain files only what is used."""

import tarfile
from typing import BinaryIO

MAX_HEADER = 2**20  # bytes of a long name or of the PAX fields of a member


class BoundedFile:
    """The file that tarfile reads headers from. It limits each read; tarfile reads as much as a header declares."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header declares {size} bytes")
        return self.file.read(size)


class Header(tarfile.TarInfo):
    """A header of a member. Of a plain file only the fields that are used are parsed, which halves the time."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        plain = len(buf) == tarfile.BLOCKSIZE and buf[156:157] == tarfile.REGTYPE and buf[345] == 0  # no prefix
        checksum, size = _octal(buf[148:156]), _octal(buf[124:136])
        # The checksum itself counts as spaces. Whatever differs here tarfile reads or refuses.
        if not plain or size is None or checksum != sum(buf) - sum(buf[148:156]) + 8 * ord(" "):
            return super().frombuf(buf, encoding, errors)
        header = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
        header.size = size
        return header


def _octal(field: bytes | bytearray) -> int | None:
    """Return a number as writers of tars write it, None for another."""
    digits = field.rstrip(b" \0")
    return int(digits, 8) if digits.isdigit() and max(digits) < ord("8") else None
