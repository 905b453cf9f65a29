"""What images lose that are resized by torch instead of Pillow: differences of values, features and classes.

`python bench/pixels.py PHOTOS --clip FOLDER`: values at 224 and 336 pixels, and features of an open_clip model.
`python bench/pixels.py PHOTOS --timm NAME --weights FILE`: features and the classes of a timm model.
PHOTOS is a folder of images. Without a model the values alone are compared.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from measure import machine
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

from prefixvlm.data.image import decode_image, read_image
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.encoder.pretrained import PretrainedEncoder
from prefixvlm.encoder.timm import TimmEncoder
from prefixvlm.encoder.transforms import ImageTransform, open_clip_transform


def drafted(path: Path, side: int) -> Image.Image:
    """Return a JPEG decoded at the smallest scale, of 1, 1/2, 1/4 and 1/8, at which no side is below `side`."""
    image = Image.open(path)
    image.draft("RGB", (side, side))
    return image.convert("RGB")


def differences(
    exact: ImageTransform, fast: ImageTransform, images: Sequence[Image.Image], others: Sequence[Image.Image] = ()
) -> dict[str, float]:
    """Return differences of values from 0 to 255. others: images for the fast transform, by default the same."""
    pairs = zip(images, others or images, strict=True)
    each = [fast.pixels(other).double() - exact.pixels(one) for one, other in tqdm(pairs, "values", leave=False)]
    return {
        "mean_absolute": torch.stack([one.abs().mean() for one in each]).mean().item(),
        "mean": torch.stack([one.mean() for one in each]).mean().item(),
        "largest": max(one.abs().max().item() for one in each),
        "share_of_equal_values": torch.stack([(one == 0).double().mean() for one in each]).mean().item(),
    }


@torch.no_grad()
def of_all(model: Any, transform: ImageTransform, images: Sequence[Image.Image]) -> Tensor:
    return torch.cat([model(transform(image)[None]).flatten(1) for image in tqdm(images, "model", leave=False)])


def features(encoder: PretrainedEncoder, fast: PretrainedEncoder, images: Sequence[Image.Image]) -> dict[str, float]:
    exact = of_all(encoder, encoder.transform, images)
    cosine = cosine_similarity(exact.double(), of_all(encoder, fast.transform, images).double())
    # Beside the cosine of different photos: features of one model are alike.
    others = cosine_similarity(exact.double(), exact.roll(1, 0).double())
    return {"cosine_mean": cosine.mean().item(), "cosine_least": cosine.min().item(), "of_others": others.mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--clip", type=Path, help="a folder of an open_clip model")
    parser.add_argument("--timm", help="a model of timm, with --weights")
    parser.add_argument("--weights", type=Path, help="a weights file of that model, with its classifier")
    parser.add_argument("--limit", type=int, default=400, help="images")
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.photos.iterdir() if path.suffix in (".jpg", ".jpeg", ".png"))
    paths = paths[: arguments.limit]
    images = [decode_image(read_image(path)) for path in paths]
    result: dict[str, Any] = {"images": len(images), "machine": machine()}
    for size in (64, 224, 336):
        exact, fast = (open_clip_transform({"size": size}, exact=each) for each in (True, False))
        result[f"values at {size}"] = differences(exact, fast, images)
        result[f"values at {size}, JPEGs scaled"] = differences(exact, fast, images, [drafted(p, size) for p in paths])
    if arguments.clip:
        exact, fast = (OpenClipEncoder(f"local-dir:{arguments.clip}", exact_pixels=each) for each in (True, False))
        result["features of clip"] = features(exact, fast, images)
    if arguments.timm:
        weights = str(arguments.weights)
        exact, fast = (TimmEncoder(arguments.timm, weights, exact_pixels=each) for each in (True, False))
        result[f"features of {arguments.timm}"] = features(exact, fast, images)
        model = timm.create_model(arguments.timm, pretrained=True, pretrained_cfg_overlay={"file": weights}).eval()
        ours, theirs = (of_all(model, each.transform, images).argmax(1) for each in (fast, exact))
        result["same class"] = (ours == theirs).double().mean().item()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
