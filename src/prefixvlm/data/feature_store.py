"""Features of images on disk, by the bytes of the image: filled during training and read from then on."""

import hashlib
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DIGEST, KEY = 12, 16  # bytes
ENTRY = np.dtype([("key", f"S{KEY}"), ("crc32", "<u4")])
RELOADING_SHARE = 0.05  # of the time that may be spent on looking for what other processes have written
logger = logging.getLogger(__name__)


class _Index(NamedTuple):
    """The stored keys, sorted, and for each its checksum, its file and its row there."""

    keys: NDArray[np.bytes_]
    checksums: NDArray[np.uint32]
    file_numbers: NDArray[np.int64]
    rows: NDArray[np.int64]
    files: list[NDArray[np.float32]]  # mapped: float32[rows, N, D]


class FeatureStore:
    """A folder of features, float32[N, D] each. Any number of processes may read and write it at once.

    A key is a digest of the bytes of an image and the number of images that were encoded together, because the kernels
    of another batch size may round otherwise, and what is read must be equal to what would be computed.

    Every process that writes has two files of its own: NAME.float32 has the features, NAME.keys a key and a checksum
    for each. What a kill leaves are at most features without a key, which are passed over.
    """

    def __init__(self, folder: Path, num_features: int, feature_width: int) -> None:
        self.folder, self.shape = folder, (num_features, feature_width)
        self._index: _Index | None = None
        self._reload_at = 0.0
        self._own_files: Path | None = None
        self.num_written = 0
        self._own_rows: dict[bytes, int] = {}  # of keys and digests, if this process also reads

    def __getstate__(self) -> dict[str, Any]:  # a spawned worker reads its own index, and does not write
        return {**vars(self), "_index": None, "_own_files": None, "_own_rows": {}, "num_written": 0, "_reload_at": 0.0}

    @property
    def record_bytes(self) -> int:
        """Bytes on disk of an image."""
        return 4 * self.shape[0] * self.shape[1] + ENTRY.itemsize

    def __len__(self) -> int:
        return sum(path.stat().st_size // ENTRY.itemsize for path in self.folder.glob("*.keys"))

    def count(self, num_images: int) -> int:
        """Return the number of features from batches of num_images images."""
        wanted = np.frombuffer(num_images.to_bytes(KEY - DIGEST, "big"), np.uint8)
        found = 0
        for path in self.folder.glob("*.keys"):
            rows = np.fromfile(path, np.uint8)
            rows = rows[: len(rows) // ENTRY.itemsize * ENTRY.itemsize].reshape(-1, ENTRY.itemsize)
            found += int((rows[:, DIGEST:KEY] == wanted).all(1).sum())
        return found

    def has(self, digest: bytes) -> bool:
        """Return whether there are features of an image, encoded in a batch of any size."""
        return digest in self._own_rows or self._find(digest) is not None

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """Return features, float32[N, D], or None if there are none with this key or they are damaged."""
        if (row := self._own_rows.get(key)) is not None:
            assert self._own_files is not None
            size = self.shape[0] * self.shape[1]
            path = self._own_files.with_suffix(".float32")
            try:
                return np.fromfile(path, "<f4", size, offset=4 * size * row).reshape(self.shape)
            except (OSError, ValueError):  # the user has removed the folder
                self._own_rows.clear()
                return None
        if (first := self._find(key)) is None:
            return None
        index = self._read_index()
        for place in range(first, len(index.keys)):  # damaged ones are followed by those that were computed again
            if index.keys[place].ljust(KEY, b"\0") != key:
                break
            features = index.files[index.file_numbers[place]][index.rows[place]]
            if zlib.crc32(features.tobytes()) == index.checksums[place]:
                return features
        logger.warning("features in %s are damaged and are computed again", self.folder)
        return None

    def add(self, keys: Sequence[bytes], features: NDArray[np.float32]) -> None:
        """Append features, float32[len(keys), N, D]. Raises OSError if they cannot be written."""
        if self._own_files is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own_files = self.folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        data = [each.astype("<f4").tobytes() for each in features]
        entries = np.array([(key, zlib.crc32(each)) for key, each in zip(keys, data, strict=True)], ENTRY)
        # The features before their keys.
        for suffix, content in ((".float32", b"".join(data)), (".keys", entries.tobytes())):
            with self._own_files.with_suffix(suffix).open("ab") as file:
                file.write(content)
        if self._index is not None:
            for row, key in enumerate(keys, self.num_written):
                self._own_rows[key] = self._own_rows[key[:DIGEST]] = row
        self.num_written += len(keys)

    def _find(self, prefix: bytes) -> int | None:
        """Return the place of the first key with this prefix. On a miss, look for what was written meanwhile."""
        index = self._read_index()
        place = int(np.searchsorted(index.keys, prefix))
        # numpy leaves out zeros at the end of bytes.
        if place < len(index.keys) and index.keys[place].ljust(KEY, b"\0").startswith(prefix):
            return place
        if time.monotonic() < self._reload_at:
            return None
        self._index = None
        self._read_index()
        return self._find(prefix)

    def _read_index(self) -> _Index:
        if self._index is None:
            start = time.monotonic()
            self._index = _load(self.folder, self.shape)
            now = time.monotonic()
            self._reload_at = now + (now - start) / RELOADING_SHARE
        return self._index


def _load(folder: Path, shape: tuple[int, int]) -> _Index:
    files: list[NDArray[np.float32]] = []
    entries = [np.empty(0, ENTRY)]
    for path in sorted(folder.glob("*.keys")):
        features = path.with_suffix(".float32")
        rows = features.stat().st_size // (4 * shape[0] * shape[1]) if features.is_file() else 0
        if rows and len(found := np.fromfile(path, ENTRY, rows)):  # without what is not written whole
            entries.append(found)
            files.append(np.memmap(features, "<f4", "r", shape=(len(found), *shape)))
    together = np.concatenate(entries)
    order = np.argsort(together["key"], kind="stable")
    counts = [len(each) for each in entries[1:]]
    numbers = np.repeat(np.arange(len(counts)), counts)
    rows_of = np.concatenate([np.arange(0), *map(np.arange, counts)])
    return _Index(together["key"][order], together["crc32"][order], numbers[order], rows_of[order], files)


class KeyedImage:
    """An image of a shard with its place in a store of features. It is decoded at once only if it has none there."""

    def __init__(self, data: bytes, decode: Callable[[bytes], Image.Image], store: FeatureStore) -> None:
        self._digest = hashlib.blake2b(data, digest_size=DIGEST).digest()
        self._data, self._decode, self._store = data, decode, store
        self._image = None if store.has(self._digest) else decode(data)  # a damaged one raises ValueError here

    @property
    def image(self) -> Image.Image:
        return self._image or self._decode(self._data)

    def key(self, num_images: int) -> bytes:
        """Return the key of its features from a batch of num_images images."""
        return self._digest + num_images.to_bytes(KEY - DIGEST, "big")

    def features(self, num_images: int) -> NDArray[np.float32] | None:
        return self._store.get(self.key(num_images))


class KeyedDecoder:
    """Opens the images of shards for a store of features."""

    def __init__(self, decode: Callable[[bytes], Image.Image], store: FeatureStore) -> None:
        self.decode, self.store = decode, store

    def __call__(self, data: bytes) -> KeyedImage:
        return KeyedImage(data, self.decode, self.store)
