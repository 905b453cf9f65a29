"""Encodes the images of a shard with a frozen encoder."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixvlm.data.feature_codec import encode_npy
from prefixvlm.data.image import ImageDecoder, decode_image
from prefixvlm.data.sample import BLACK_IMAGE, IMAGE_EXTENSIONS
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.reencode import rename_support
from prefixvlm.data.shards.tar_writer import Members, SampleOrError
from prefixvlm.encoder.interface import ImageEncoder

Features = NDArray[np.floating]
Samples = Callable[[Path], Iterator[SampleOrError]]  # yields the samples of a shard


class EncodedShard(Sequence[SampleOrError]):
    """The samples of a shard with their features, computed during iteration; they cannot be indexed."""

    def __init__(self, samples: Samples, path: Path, num_samples: int) -> None:
        self.samples, self.path, self.num_samples = samples, path, num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[SampleOrError]:
        return self.samples(self.path)

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("features are computed in order and cannot be indexed")


class ImageShardEncoder:
    """Replaces images by their features: decodes in threads and encodes in batches, each image of a batch once."""

    def __init__(self, encoder: ImageEncoder, batch_size: int, decoder: ImageDecoder = decode_image) -> None:
        self.encoder, self.batch_size, self.decoder = encoder, batch_size, decoder
        self.device = next((p.device for p in encoder.parameters()), torch.device("cpu"))

    def samples(self, path: Path) -> Iterator[SampleOrError]:
        """Yield the samples of a shard; a ValueError for each sample with an image that does not decode."""
        raw = read_shard(path)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL releases the GIL while it decodes
            while group := list(islice(raw, self.batch_size)):
                images = dict.fromkeys(data for _, each in group for name, data in each.items() if _is_image(name))
                encoded = self._encode_images(dict(zip(images, pool.map(self._prepare, images), strict=True)))
                for key, members in group:
                    yield key, _replace_images(members, encoded)

    def black(self) -> Features:
        """Return the features of a black image, which a blind evaluation needs."""
        return self._encode([self.encoder.transform(BLACK_IMAGE)])[0]

    def _encode_images(self, prepared: Mapping[bytes, Tensor | ValueError]) -> dict[bytes, bytes | ValueError]:
        """Return the npy member, or the error, of each image."""
        pixels = {data: each for data, each in prepared.items() if isinstance(each, Tensor)}
        features = self._encode(list(pixels.values()))
        failed = {data: each for data, each in prepared.items() if isinstance(each, ValueError)}
        return failed | dict(zip(pixels, map(encode_npy, features), strict=True))

    def _prepare(self, data: bytes) -> Tensor | ValueError:
        try:
            return self.encoder.transform(self.decoder(data))
        except ValueError as error:
            return error

    @torch.inference_mode()
    def _encode(self, pixels: Sequence[Tensor]) -> list[Features]:
        features: list[Features] = []
        # In batches again: samples with a support have several images.
        for start in range(0, len(pixels), self.batch_size):
            batch = torch.stack(list(pixels[start : start + self.batch_size])).to(self.device)
            features += list(self.encoder(batch).float().cpu().numpy())
        return features


def device_of(name: str) -> torch.device:
    """Return the device, a GPU for "auto" if there is one. Raises ValueError if it is not available."""
    try:
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
        return torch.zeros(0, device=chosen).device  # torch.device(name) would not notice that it is missing
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without the device
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--device is {name}, which is not available ({reason}); set auto or cpu") from error


def _replace_images(members: Mapping[str, bytes], encoded: Mapping[bytes, bytes | ValueError]) -> Members | ValueError:
    """Replace the images of a sample by features, and their names in the support of its json member."""
    result: Members = {}
    for name, data in members.items():
        stored = encoded[data] if _is_image(name) else data
        if isinstance(stored, ValueError):
            return stored
        if (name := _stored_name(name)) in result:
            return ValueError(f"it has two images that would both be {name}")
        result[name] = stored
    if b'"support"' in members.get("json", b""):
        try:
            result["json"] = rename_support(members, {name: _stored_name(name) for name in members})
        except ValueError:
            return result  # write_tar checks the member and reports what is wrong with it
    return result


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2] in IMAGE_EXTENSIONS


def _stored_name(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return f"{stem}{dot}npy" if extension in IMAGE_EXTENSIONS else name
