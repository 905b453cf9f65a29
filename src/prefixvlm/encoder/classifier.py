"""The classifier that a timm model was trained with, and what its input is on average."""

from dataclasses import dataclass
from typing import Any

import timm.data
import torch
from torch import Tensor, nn

from prefixvlm.encoder.loading import RANDOM
from prefixvlm.encoder.packaged import PACKAGE, packaged_weights
from prefixvlm.encoder.timm import load_timm

DEVIATIONS = torch.linspace(-6, 6, 4001)  # points of a standard normal distribution
DENSITY = torch.exp(-(DEVIATIONS**2) / 2) / torch.exp(-(DEVIATIONS**2) / 2).sum()


@dataclass
class Classifier:
    """rows: float32[classes, D]. names: of each class, WordNet's synonyms with commas between them.

    mean: float32[D], the mean of the pooled features over the images that the model was trained on, about.
    """

    rows: Tensor
    names: list[str]
    mean: Tensor


def classifier_of(model_name: str, pretrained: bool | str | None, image_size: int | None = None) -> Classifier:
    """Return the classifier of a timm model.

    Raises ValueError for models that do not average after a batch norm, as EfficientNets do, and if the names of the
    classes are not known.
    """
    if not pretrained or pretrained == RANDOM:
        raise ValueError(
            f"encoder.pretrained is {pretrained}, and no class has a meaning then: set it to true or {PACKAGE}"
        )
    weights = str(packaged_weights(model_name)) if pretrained == PACKAGE else pretrained
    model: Any = load_timm(model_name, weights, image_size, num_classes=None)
    layer, norm, subset = model.get_classifier(), getattr(model, "bn2", None), timm.data.infer_imagenet_subset(model)
    if not isinstance(layer, nn.Linear) or norm is None or norm.weight.shape != (layer.in_features,):
        raise ValueError(
            f"{model_name} does not end with a batch norm, an average and a classifier: take an EfficientNet"
        )
    if layer.out_features != 1000 and subset is None:
        raise ValueError(f"the names of the {layer.out_features} classes of {model_name} are not known")
    info = timm.data.ImageNetInfo(subset or "imagenet-1k")
    names = [info.index_to_description(number) for number in range(layer.out_features)]
    return Classifier(layer.weight.detach(), names, mean_after(norm))


@torch.no_grad()
def mean_after(norm: Any) -> Tensor:
    """Return float32[D], the mean of a batch norm's output after its activation, for normally distributed inputs.

    In training the input of the activation has the mean `norm.bias` and the deviation `norm.weight` in each channel, so
    that its mean is known without an image; an average over the positions does not change it.
    """
    values = norm.bias[:, None] + norm.weight[:, None] * DEVIATIONS
    return (norm.act(values) * DENSITY).sum(-1)
