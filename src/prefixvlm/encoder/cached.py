"""The encoder of stored features: each image was encoded once, before training."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from prefixvlm.encoder.interface import Identity, ImageEncoder
from prefixvlm.strict_json import read_json

IDENTITY, BLACK = "features.json", "black.float16"
HOW_TO_MAKE = "make it with `prefixvlm shards features --shards DIR --encoder NAME --out DIR`"


class CachedEncoder(ImageEncoder):
    """Passes precomputed features through. It has no weights; a checkpoint names the original encoder in its place.

    features_of: a folder of feature shards, or a pattern of shards in it. The folder also holds the identity of the
        features and the features of a black image, the input of a blind evaluation.
    Raises ValueError if the folder lacks one of the two.
    """

    reads_features = True

    def __init__(self, features_of: str) -> None:
        super().__init__()
        if not isinstance(features_of, str):
            raise ValueError(f"encoder.features_of is {features_of!r}; set it to one folder of features")
        self.identity = read_identity(features_of)
        if self.identity is None:
            raise ValueError(f"encoder.features_of is {features_of}, which has no {IDENTITY}; {HOW_TO_MAKE}")
        self.num_features, self.feature_width = self.identity.num_features, self.identity.feature_width
        self.grid = self.identity.grid
        black = _read_black(_folder(features_of) / BLACK, (self.num_features, self.feature_width))
        self.transform = StoredFeatures(black, str(features_of))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: the stored features, float[B, N, D] -> float32[B, N, D]."""
        # float32 as the features of every encoder, whatever the precision of the shards and of the batch.
        return pixel_values.float()


class StoredFeatures:
    """The transform of stored features: float[N, D] -> float32[N, D]; a black image gives the features of one."""

    def __init__(self, black: NDArray[np.floating], folder: str) -> None:
        self.black, self.folder = black, folder

    def __call__(self, image: Image.Image | NDArray[np.floating]) -> Tensor:
        """Raise ValueError for an image that is not black, and for features of another shape."""
        if isinstance(image, Image.Image):
            if image.getbbox() is not None:  # the box around all pixels that are not black
                raise ValueError(
                    "encoder=cached reads features, but the shards hold images; set encoder to an image encoder, "
                    f"or data.shards to a folder of features: {HOW_TO_MAKE}"
                )
            image = self.black
        if image.shape != self.black.shape:
            raise ValueError(
                f"stored features are {image.shape}, but those of {self.folder} are {self.black.shape}, so they are of "
                "another encoder: set encoder.features_of to the folder of the shards"
            )
        return torch.tensor(image, dtype=torch.float32)


def local_shards(shards: str | Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the folders and patterns of data.shards that are no URLs."""
    # Whether a remote folder holds features shows only when its shards are read.
    sources = [shards] if isinstance(shards, str) else [options["shards"] for options in shards.values()]
    return [source for source in sources if "://" not in source]


def read_identity(shards: str) -> Identity | None:
    """Return the identity of the features in a folder or a pattern of shards, None if there is no features.json.

    Raises ValueError if its features.json cannot be read.
    """
    path = _folder(shards) / IDENTITY
    if not path.is_file():
        return None
    try:
        content = read_json(path, dict[str, Any], "a valid identity of features")
        if (grid := content.get("grid")) is not None:
            content["grid"] = _read_grid(grid, content["num_features"])
        identity = Identity(**content)
        hashes, sizes = (identity.fingerprint, identity.transform), (identity.num_features, identity.feature_width)
        # type(), not isinstance: JSON's true is an int to isinstance.
        if not all(isinstance(text, str) for text in hashes) or not all(type(n) is int and n > 0 for n in sizes):
            raise TypeError("fingerprint and transform must be strings, num_features and feature_width numbers")
        if not isinstance(identity.encoder, dict):
            raise TypeError("encoder must be an object")
    except ValueError as error:
        raise ValueError(f"{error}; {HOW_TO_MAKE}") from error
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a valid identity of features ({error}); {HOW_TO_MAKE}") from error
    return identity


def write_identity(folder: Path, identity: Identity, black: NDArray[np.floating]) -> None:
    """Write the files that read_identity and CachedEncoder read. black: features of a black image, float[N, D]."""
    (folder / BLACK).write_bytes(black.astype("<f2").tobytes())
    (folder / IDENTITY).write_text(json.dumps(asdict(identity), indent=1) + "\n")


def _read_grid(grid: Any, num_features: Any) -> tuple[int, int]:
    match grid:
        case [int(rows), int(columns)] if rows > 0 and columns > 0 and rows * columns == num_features:
            return rows, columns
    raise TypeError(f"grid must be rows and columns of {num_features} features")


def _folder(shards: str) -> Path:
    path = Path(shards)
    return path if path.is_dir() else path.parent


def _read_black(path: Path, shape: tuple[int, int]) -> NDArray[np.floating]:
    if not path.is_file() or path.stat().st_size != 2 * math.prod(shape):
        raise ValueError(f"{path} does not hold the features of a black image, float16 {shape}; {HOW_TO_MAKE}")
    return np.frombuffer(path.read_bytes(), "<f2").reshape(shape)
