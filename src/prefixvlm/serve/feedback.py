"""Collects corrections of captions and answers in a folder: corrections.jsonl, and each image once."""

import errno
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from prefixvlm.atomic import write_bytes
from prefixvlm.data.image import ImageDecoder, decode_image
from prefixvlm.data.sources.feedback import CORRECTIONS, IMAGES, Correction

MAX_TEXT = 2000  # characters of a question, a prediction or a correction
MAX_FOLDER = 10 * 2**30  # bytes of all images and corrections
EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


def record(
    folder: Path,
    image: bytes,
    prediction: str,
    correction: str,
    question: str = "",
    decoder: ImageDecoder = decode_image,
    max_folder: int = MAX_FOLDER,
) -> Correction:
    """Append a correction to `folder`/corrections.jsonl and keep its image as `folder`/images/SHA256.EXTENSION.

    Any number of processes and threads may do so at a time. correction: the prediction itself if it was right.
    question: "" for a caption. max_folder: bytes that the folder may have.
    Raises ValueError for an image that does not decode, a text that is blank or too long, or a full folder; OSError if
    the disk is full. The file has then no part of the correction.
    """
    texts = {"question": question, "prediction": prediction, "correction": correction}
    texts = {name: _checked(name, text) for name, text in texts.items()}
    if not texts["correction"]:
        raise ValueError("the correction has no words; write what is right")
    _ = decoder(image)
    name = f"{IMAGES}/{hashlib.sha256(image).hexdigest()}.{EXTENSIONS[decoder.header(image).mime]}"
    time, task = datetime.now(UTC).isoformat(timespec="milliseconds"), "vqa" if texts["question"] else "captioning"
    entry = Correction(uuid.uuid4().hex, name, **texts, time=time, task=task)
    line = json.dumps(asdict(entry)).encode() + b"\n"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder / CORRECTIONS) as descriptor:
        new = len(line) + (0 if path.exists() else len(image))
        if _size(folder) + new > max_folder:
            raise ValueError(f"the folder of corrections is full: it may have {max_folder} bytes")
        if not path.exists():
            write_bytes(path, image)
        _append(descriptor, line)
    return entry


def _checked(name: str, text: str) -> str:
    text = text.strip()
    if len(text) > MAX_TEXT:
        raise ValueError(f"the {name} has {len(text)} characters; at most {MAX_TEXT} are taken")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise ValueError(f"the {name} is not valid Unicode") from error
    return text


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a file for reading and appending, which no other process or thread has locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # lockf would not keep threads of one process apart
        yield descriptor
    finally:
        os.close(descriptor)


def _append(descriptor: int, line: bytes) -> None:
    """Append a line, whole or not at all, and flush it to the disk."""
    end = os.fstat(descriptor).st_size
    if end and os.pread(descriptor, 1, end - 1) != b"\n":  # a power cut has left a part of a line
        line = b"\n" + line
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), CORRECTIONS)
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def _size(folder: Path) -> int:
    return (folder / CORRECTIONS).stat().st_size + sum(file.stat().st_size for file in os.scandir(folder / IMAGES))
