"""A shard of images and a frozen encoder go in; its samples come out, with features in their images' places."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from prefixvlm.data.feature_codec import encode_npy
from prefixvlm.data.sample import IMAGE_EXTENSIONS, decode_image
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.reencode import renamed
from prefixvlm.data.shards.tar_writer import Members, SampleOrError
from prefixvlm.encoder.interface import ImageEncoder

Features = NDArray[np.floating]
Samples = Callable[[Path], Iterator[SampleOrError]]  # of a shard


class EncodedShard(Sequence[SampleOrError]):
    """The samples of a shard with their features, computed as they are asked for, one after the other."""

    def __init__(self, samples: Samples, path: Path, num_samples: int) -> None:
        self.samples, self.path, self.num_samples = samples, path, num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[SampleOrError]:
        return self.samples(self.path)

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("features are computed in their order")


class ImageShardEncoder:
    """Samples with images to samples with features; decoded in threads, encoded in batches, no image twice a batch."""

    def __init__(self, encoder: ImageEncoder, batch_size: int) -> None:
        self.encoder, self.batch_size = encoder, batch_size
        self.device = next((p.device for p in encoder.parameters()), torch.device("cpu"))

    def samples(self, path: Path) -> Iterator[SampleOrError]:
        """Of a shard; instead of a sample with an image that does not decode comes the error."""
        raw = read_shard(path)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while group := list(islice(raw, self.batch_size)):
                datas = dict.fromkeys(data for _, each in group for name, data in each.items() if _is_image(name))
                found = self._members(dict(zip(datas, pool.map(self._prepared, datas), strict=True)))
                for key, members in group:
                    yield key, _replaced(members, found)

    def black(self) -> Features:
        """Of a black image."""
        return self._encode([self.encoder.transform(Image.new("RGB", (64, 64)))])[0]

    def _members(self, prepared: Mapping[bytes, Tensor | ValueError]) -> dict[bytes, bytes | ValueError]:
        pixels = {data: each for data, each in prepared.items() if isinstance(each, Tensor)}
        features = self._encode(list(pixels.values()))
        failed = {data: each for data, each in prepared.items() if isinstance(each, ValueError)}
        return failed | dict(zip(pixels, map(encode_npy, features), strict=True))

    def _prepared(self, data: bytes) -> Tensor | ValueError:
        try:
            return self.encoder.transform(decode_image(data))
        except ValueError as error:
            return error

    @torch.inference_mode()
    def _encode(self, pixels: Sequence[Tensor]) -> list[Features]:
        found: list[Features] = []
        for start in range(0, len(pixels), self.batch_size):
            batch = torch.stack(list(pixels[start : start + self.batch_size])).to(self.device)
            found += list(self.encoder(batch).float().cpu().numpy())
        return found


def _replaced(members: Mapping[str, bytes], found: Mapping[bytes, bytes | ValueError]) -> Members | ValueError:
    """The members with features for images; what the json says of a support's images follows."""
    result: Members = {}
    for name, data in members.items():
        stored = found[data] if _is_image(name) else data
        if isinstance(stored, ValueError):
            return stored
        if (name := _stored_name(name)) in result:
            return ValueError(f"it has two images that would both be {name}")
        result[name] = stored
    if b'"support"' in members.get("json", b""):
        try:
            result["json"] = renamed(members["json"], {name: _stored_name(name) for name in members})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return result  # write_tar says what is wrong with it
    return result


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2] in IMAGE_EXTENSIONS


def _stored_name(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return f"{stem}{dot}npy" if extension in IMAGE_EXTENSIONS else name
