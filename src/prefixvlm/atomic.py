"""Files and folders that appear whole or not at all: written beside their place, flushed to the disk and renamed.

A kill or a full disk leaves the former file or folder as it was. What a kill leaves is named .NAME.PID.tmp.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BufferedRandom
from pathlib import Path


@contextmanager
def replacing_file(path: str | Path) -> Iterator[BufferedRandom]:
    """A new file, opened for writing and reading, that takes the place of `path` at the end of the block.

    Raises OSError with the name of `path` if it cannot be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Replace a file by one with these bytes."""
    with replacing_file(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str, errors: str = "strict") -> None:
    """Replace a file by one with this text in UTF-8. errors: as of str.encode."""
    write_bytes(path, text.encode("utf-8", errors))


def write_texts(texts: Mapping[Path, str], errors: str = "strict") -> None:
    """Replace several files by ones with these texts, or none of them if one cannot be written.

    The first file is replaced last. Raises OSError with the name of the file that cannot be written.
    """
    with ExitStack() as files:
        for path, text in texts.items():
            file = files.enter_context(replacing_file(path))
            try:
                file.write(text.encode("utf-8", errors))
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:  # named here: it passes through the contexts of the other files
                raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def link_or_copy(path: Path, other: Path) -> None:
    """Replace a file by a hard link to `path`, or by a copy where the file system has no hard links."""
    # A link cannot replace a file, but the rename of a link can, so that `other` is never missing.
    temporary = _temporary(other)
    temporary.unlink(missing_ok=True)  # of a process of this number that was killed
    try:
        temporary.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(other)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A new folder that takes the place of `path` at the end of the block; a former one is removed then."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    former = temporary.with_suffix(".former")
    try:
        temporary.chmod(path.parent.stat().st_mode & 0o777)  # mkdtemp's are readable by their owner alone
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        if path.exists():
            path.rename(former)
        temporary.rename(path)
        flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
