"""Image encoders of timm: models without their classifier."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import timm.data
from timm.models import PretrainedCfg, split_model_name_tag
from torch import Tensor, nn

from prefixvlm.encoder.loading import LOAD_ERRORS, RANDOM, check_random, first_line, fixed_random_weights, on_meta
from prefixvlm.encoder.packaged import PACKAGE, packaged_weights
from prefixvlm.encoder.pretrained import PretrainedEncoder
from prefixvlm.encoder.transforms import timm_transform
from prefixvlm.options.ranges import Positive, Size


class TimmEncoder(PretrainedEncoder):
    """Any timm model (ResNet, VGG, NF-ResNet, ConvNeXt, DINOv2, BEiT); see PretrainedEncoder.

    model_name: a timm name with a tag of weights (resnet50.a1_in1k), or without one, for the model's first tag.
    pretrained: True for the tag's weights, which are downloaded once, "package" for those of an installed package, a
        weights file, "random" for a frozen control, or None to train from scratch.
    features: "pooled" is the input of the model's classifier: an average for most models, the class token or the
        attention pool of a ViT, the second hidden layer of 4096 of VGG. Patches do not include class and register
        tokens. "classes" are the probabilities of the model's own classifier.
    layer: a block of a ViT, or a stage of another model; 0 is the stem of a ResNet.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool | str | None = None,
        features: str = "pooled",
        layer: int | list[int] | None = None,
        normalize: bool = False,
        trained: bool = False,
        dtype: str = "float32",
        image_size: Size | None = None,
        average_pooling: Positive = 1,
        pixel_shuffle: Positive = 1,
        exact_pixels: bool = True,
    ) -> None:
        self.classes = features == "classes"  # a module has no children yet, so this may come before its constructor
        features = "pooled" if self.classes else features
        super().__init__(features, layer, normalize, trained, dtype, image_size, average_pooling, pixel_shuffle)
        if self.classes and (trained or pretrained == RANDOM):
            raise ValueError("encoder.features is classes, which only frozen and pretrained weights have: set pooled")
        check_random(pretrained, trained)
        check_name(model_name)
        empty = pretrained == RANDOM or on_meta()
        if not empty:
            if pretrained == PACKAGE:
                pretrained = str(packaged_weights(model_name))
            check_pretrained(model_name, pretrained, trained)
        with fixed_random_weights(pretrained):
            self.visual = load_timm(model_name, None if empty else pretrained, image_size, self.classes)
        if not self.pooled and not hasattr(self.visual, "forward_intermediates"):
            raise ValueError(f"encoder.features is patch, but timm gives none of {model_name}: set pooled")
        config = timm.data.resolve_model_data_config(self.visual, {"img_size": image_size})
        self.transform = timm_transform(config, exact_pixels)
        self.infer_shapes(*config["input_size"][1:])

    def _pooled(self, pixel_values: Tensor) -> Tensor:
        features = self.visual(pixel_values)
        if features.ndim != 2:
            raise ValueError("encoder.features is pooled, but this model does not pool: set encoder.features=patch")
        return features.softmax(-1) if self.classes else features

    def _maps(self, pixel_values: Tensor) -> list[Tensor]:
        options: dict[str, Any] = {"stop_early": True, "intermediates_only": True}
        if self.layers is not None:
            return self.visual.forward_intermediates(pixel_values, indices=self.layers, **options)
        # Not the last intermediate: an NF-ResNet's lacks the final activation, a ViT's the final norm.
        final, (last,) = self.visual.forward_intermediates(pixel_values, indices=1)
        if final.ndim == 3:  # tokens of a ViT; the shape of the intermediate gives their grid
            patches = final[:, getattr(self.visual, "num_prefix_tokens", 0) :]
            return [patches.transpose(1, 2).unflatten(2, last.shape[2:])]
        return [final.permute(0, 3, 1, 2) if getattr(self.visual, "output_fmt", "NCHW") == "NHWC" else final]


def check_name(model_name: str) -> None:
    """Raise ValueError for a model or a tag that timm does not know."""
    name, tag = split_model_name_tag(model_name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4) or ["resnet50"]
        raise ValueError(
            f"encoder.model_name is {model_name!r}, which timm does not know: it knows {', '.join(near)} and others"
        )
    tags = [each.split(".", 1)[1] for each in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f"encoder.model_name is {model_name!r}, but {name} has no weights of that tag: "
            f"its tags are {', '.join(tags) or '(none)'}"
        )


def check_pretrained(model_name: str, pretrained: bool | str | None, trained: bool) -> None:
    """Raise ValueError if frozen weights would be random, or if there are no weights to load."""
    accepted = "set encoder.pretrained to true, package, a weights file or random"
    if not pretrained and not trained:
        raise ValueError(f"encoder.pretrained is null, which would freeze {model_name} at random weights: {accepted}")
    if isinstance(pretrained, str) and not Path(pretrained).is_file():
        raise ValueError(f"encoder.pretrained is {pretrained!r}, which is not a file: {accepted}")
    if pretrained is True and not config_of(model_name).has_weights:
        raise ValueError(f"encoder.pretrained is true, but timm has no weights of {model_name}: {accepted}")


def config_of(model_name: str) -> Any:
    """Return timm's configuration of a tag's weights, an empty one if the model has none."""
    return timm.get_pretrained_cfg(model_name) or PretrainedCfg()


def load_timm(
    model_name: str, pretrained: bool | str | None, image_size: int | None, classifier: bool = False
) -> nn.Module:
    """Return the model in float32, with or without its classifier.

    Weights are read as tensors, never as code. Raises ValueError if they cannot be loaded.
    """
    options: dict[str, Any] = {} if classifier else {"num_classes": 0}
    if isinstance(pretrained, str):
        options["pretrained_cfg_overlay"] = {"file": pretrained}
    # timm: only a model with a fixed input size, such as a ViT, has the argument img_size.
    if image_size is not None and config_of(model_name).fixed_input_size:
        options["img_size"] = image_size
    try:
        with strict_state_dict():
            return timm.create_model(model_name, pretrained=bool(pretrained), **options)
    except LOAD_ERRORS as error:
        if not pretrained:
            raise ValueError(
                f"encoder.model_name is {model_name}, which cannot be built with encoder.image_size={image_size} "
                f"({first_line(error)}): set another of the two"
            ) from error
        raise ValueError(
            f"encoder.pretrained is {pretrained}, but its weights could not be loaded into {model_name} "
            f"({first_line(error)}): if they can't be downloaded here, set encoder.pretrained to a file"
        ) from error


@contextmanager
def strict_state_dict() -> Iterator[None]:
    """Raise RuntimeError within the block if a state dict lacks weights of the model or has others."""
    # For a model without a classifier timm loads with strict=False, and only logs the weights that stay random. It
    # removes the classifier from the state dict itself, so whatever differs after that is an error.
    load = nn.Module.load_state_dict

    def load_strictly(module: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        result = load(module, *arguments, **keywords)
        if result.missing_keys or result.unexpected_keys:
            lacks, has = result.missing_keys[:3] or "nothing", result.unexpected_keys[:3] or "nothing"
            raise RuntimeError(f"they lack {lacks} and have {has} that is not in the model")
        return result

    nn.Module.load_state_dict = load_strictly  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]
