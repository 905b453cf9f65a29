"""A folder of stored features in, an encoder that hands them on out: each image was encoded once, before training."""

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

IDENTITY, BLACK = "features.json", "black.float16"
HOW_TO_MAKE = "make it with `prefixvlm shards features --shards DIR --encoder NAME --out DIR`"


class CachedEncoder(ImageEncoder):
    """Stands for the encoder that computed the features; it has no weights, and a checkpoint does not mention it.

    features_of: the folder of feature shards, or a pattern of shards in it: whose features they are, and a black
    image's, which stand in where an evaluation is blind. Raises ValueError if the folder does not say.
    """

    def __init__(self, features_of: str) -> None:
        super().__init__()
        if not isinstance(features_of, str):
            raise ValueError(f"encoder.features_of is {features_of!r}; set it to one folder of features")
        self.identity = identity_of(features_of)
        if self.identity is None:
            raise ValueError(f"encoder.features_of is {features_of}, which has no {IDENTITY}; {HOW_TO_MAKE}")
        self.num_features, self.feature_width = self.identity.num_features, self.identity.feature_width
        self.grid = self.identity.grid
        black = _read_black(_folder(features_of) / BLACK, (self.num_features, self.feature_width))
        self.transform = StoredFeatures(black, str(features_of))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: the features themselves, float[B, N, D] -> float32[B, N, D]."""
        return pixel_values.float()


class StoredFeatures:
    """The transform of stored features: float[N, D] to float32[N, D]; a black image becomes its features."""

    def __init__(self, black: NDArray[np.floating], folder: str) -> None:
        self.black, self.folder = black, folder

    def __call__(self, image: Image.Image | NDArray[np.floating]) -> Tensor:
        """Raises ValueError for any other image, and for features of another shape."""
        if isinstance(image, Image.Image):
            if image.getbbox() is not None:  # something in it is not black
                raise ValueError(
                    "encoder=cached reads features, but the shards hold images; set encoder to the one that is to see "
                    f"them, or data.shards to features: {HOW_TO_MAKE}"
                )
            image = self.black
        if image.shape != self.black.shape:
            raise ValueError(
                f"stored features are {image.shape}, but those of {self.folder} are {self.black.shape}; they are of "
                "another encoder: set encoder.features_of to the folder of the shards"
            )
        return torch.tensor(image, dtype=torch.float32)


def local(shards: str | Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The folders and patterns that data.shards names, without URLs: what those hold shows when it is read."""
    named = [shards] if isinstance(shards, str) else [options["shards"] for options in shards.values()]
    return [each for each in named if "://" not in each]


def identity_of(shards: str) -> Identity | None:
    """Whose features a folder of shards, or of a pattern of shards, holds; None if it is not a folder of features.

    Raises ValueError if its features.json does not say.
    """
    path = _folder(shards) / IDENTITY
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if (grid := content.get("grid")) is not None:
            content["grid"] = _read_grid(grid, content["num_features"])
        identity = Identity(**content)
        texts, numbers = (identity.fingerprint, identity.transform), (identity.num_features, identity.feature_width)
        if not all(isinstance(text, str) for text in texts) or not all(type(n) is int and n > 0 for n in numbers):
            raise TypeError("fingerprint and transform must be texts, num_features and feature_width numbers")
        if not isinstance(identity.encoder, dict):
            raise TypeError("encoder must be an object")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} does not say whose features these are ({error}); {HOW_TO_MAKE}") from error
    return identity


def write_identity(folder: Path, identity: Identity, black: NDArray[np.floating]) -> None:
    """What identity_of and CachedEncoder read. black: the features of a black image, float[N, D]."""
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
