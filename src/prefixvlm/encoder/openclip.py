"""An open_clip model's name in, its image tower as an encoder out."""

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from prefixvlm.encoder.pretrained import (
    LOAD_ERRORS,
    RANDOM,
    PretrainedEncoder,
    check_random,
    first_line,
    fixed_random_weights,
    on_meta,
)

LOCAL, HUB = "local-dir:", "hf-hub:"
KEYS = ("encoder.model_name", "encoder.pretrained")  # what messages call the two settings of a model


class OpenClipEncoder(PretrainedEncoder):
    """Any open_clip image tower (ViT, ModifiedResNet, timm), frozen unless trained; see PretrainedEncoder.

    model_name: an open_clip name, or local-dir:PATH to a folder with open_clip_config.json and weights.
    pretrained: a tag of that name, a weights file, or "random" for a frozen control; None with local-dir, whose
        weights are in the folder, or to train from scratch.
    features: "pooled" is the vector that CLIP compares with text.
    layer: for a ModifiedResNet 0 is the stem, 4 the last stage.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: str | None = None,
        features: str = "pooled",
        layer: int | list[int] | None = None,
        normalize: bool = False,
        trained: bool = False,
        dtype: str = "float32",
        image_size: int | None = None,
        average_pooling: int = 1,
        pixel_shuffle: int = 1,
    ) -> None:
        super().__init__(features, layer, normalize, trained, dtype, image_size, average_pooling, pixel_shuffle)
        check_random(pretrained, trained)
        empty = pretrained == RANDOM or on_meta()
        check_name(model_name, None if empty else pretrained, trained or empty, KEYS)
        with fixed_random_weights(pretrained):
            self.visual = load_clip(model_name, pretrained, KEYS, image_size, empty).visual  # the text tower goes
        if hasattr(self.visual, "output_tokens"):
            self.visual.output_tokens = False  # CoCa's configs set it, and forward would return a tuple
        if isinstance(self.visual, ModifiedResNet):
            self._resize_resnet(image_size)
        self.transform = image_transform_v2(PreprocessCfg(**self.visual.preprocess_cfg), is_train=False)
        size = self.visual.image_size
        self.infer_shapes(*((size, size) if isinstance(size, int) else size))

    def _resize_resnet(self, image_size: int | None) -> None:
        """Convolutions take any size; the attention pool, which patches go without, only its own."""
        if not self.pooled:
            self.visual.attnpool = None
        if image_size is None or image_size == self.visual.image_size:
            return
        if self.pooled:
            raise ValueError(
                f"encoder.image_size is {image_size}, but this attention pool has positions for "
                f"{self.visual.image_size} only: set encoder.image_size=null or encoder.features=patch"
            )
        self.visual.image_size = image_size
        self.visual.preprocess_cfg["size"] = image_size

    def _pooled(self, pixel_values: Tensor) -> Tensor:
        return self.visual(pixel_values)

    def _maps(self, pixel_values: Tensor) -> list[Tensor]:
        output = self.visual.forward_intermediates(
            pixel_values,
            indices=1 if self.layers is None else self.layers,
            # CoCa's last norm belongs to its attention pooling and has another width.
            normalize_intermediates=self.layers is None and getattr(self.visual, "attn_pool", None) is None,
            intermediates_only=True,
            # open_clip 3.3's ModifiedResNet reads this flag the wrong way round.
            stop_early=not isinstance(self.visual, ModifiedResNet),
        )
        return output["image_intermediates"]


def check_name(model_name: str, pretrained: str | None, trained: bool, keys: tuple[str, str]) -> None:
    """Raises ValueError where open_clip would use random weights, guess, or only log."""
    name_key, pretrained_key = keys
    if model_name.startswith(LOCAL):
        folder = Path(model_name.removeprefix(LOCAL))
        weights = [path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pth")]
        if not (folder / "open_clip_config.json").is_file() or not weights:
            raise ValueError(
                f"{name_key} is {model_name}, but {folder} does not hold an open_clip_config.json and weights: "
                f"make it with `python train.py experiment=clip_pretrain module.out={folder}`, or set {name_key}"
            )
        if pretrained is not None:
            raise ValueError(
                f"{pretrained_key} is {pretrained!r}, but {LOCAL} brings its own weights: set {pretrained_key}=null"
            )
        return
    if model_name.startswith(HUB):
        return
    config = open_clip.get_model_config(model_name)
    if config is None:
        near = difflib.get_close_matches(model_name, open_clip.list_models(), n=3, cutoff=0.4) or ["ViT-B-32"]
        raise ValueError(
            f"{name_key} is {model_name!r}, which open_clip does not know: it knows {', '.join(near)} "
            f"and others, or take {LOCAL}PATH"
        )
    check_pretrained(model_name, config, pretrained, trained, keys)


def check_pretrained(
    model_name: str, config: dict[str, Any], pretrained: str | None, trained: bool, keys: tuple[str, str]
) -> None:
    name_key, pretrained_key = keys
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    accepted = f"set {pretrained_key} to a weights file or one of {', '.join(tags) or '(no tags)'}"
    if pretrained is None:
        if not trained:
            raise ValueError(f"{pretrained_key} is null, which would freeze {model_name} at random weights: {accepted}")
        return
    tag_config = open_clip.get_pretrained_cfg(model_name, pretrained)
    if not tag_config and not Path(pretrained).is_file():
        raise ValueError(f"{pretrained_key} is {pretrained!r}, neither a file nor a tag of {model_name}: {accepted}")
    if tag_config and tag_config.get("quick_gelu", False) != config.get("quick_gelu", False):
        right = model_name.removesuffix("-quickgelu") + ("-quickgelu" if tag_config.get("quick_gelu") else "")
        raise ValueError(
            f"{name_key} is {model_name}, but the weights {pretrained!r} were trained with another activation: "
            f"set {name_key}={right}"
        )


def _preprocessing(model_name: str) -> dict[str, Any]:
    """What all published weights of a name want of an image: open_clip heeds it for their tags, not for a file."""
    tags = [
        open_clip.get_pretrained_cfg(model_name, tag) for tag in open_clip.list_pretrained_tags_by_model(model_name)
    ]
    keys = ("mean", "std", "interpolation", "resize_mode")
    wanted = [{key: tag[key] for key in keys if tag.get(key) is not None} for tag in tags]
    return wanted[0] if wanted and all(each == wanted[0] for each in wanted) else {}


@contextmanager
def _no_warning_of_random_weights(wanted: bool) -> Iterator[None]:
    """Where they are what is wanted."""
    before = logging.root.manager.disable
    if wanted:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def load_clip(
    model_name: str,
    pretrained: str | None,
    keys: tuple[str, str],
    image_size: int | None = None,
    empty: bool = False,
) -> Any:
    """Both towers, in float32; the image tower has its preprocess_cfg. Weights are read as tensors, never as code.

    image_size: of a ViT or a timm tower; a ModifiedResNet keeps its own. empty: load no weights.
    """
    name_key, pretrained_key = keys
    if on_meta() and model_name.startswith(HUB):
        raise ValueError(f"{name_key} is {model_name}, whose sizes only its repository says: set {LOCAL}PATH")
    try:
        config = open_clip.get_model_config(model_name) or {}
        resnet = isinstance(config.get("vision_cfg", {}).get("layers"), list)
        with _no_warning_of_random_weights(empty):
            return open_clip.create_model(
                model_name,
                pretrained=None if empty else pretrained,
                load_weights=not empty,
                device="meta" if on_meta() else "cpu",
                force_image_size=None if resnet else image_size,
                pretrained_text=False,
                # A repository without weights would otherwise be a random model and a warning.
                require_pretrained=not empty and (pretrained is not None or model_name.startswith((LOCAL, HUB))),
                force_preprocess_cfg=_preprocessing(model_name),
                weights_only=True,
            )
    except LOAD_ERRORS as error:
        raise ValueError(
            f"{pretrained_key} is {pretrained}, but its weights could not be loaded into {model_name} "
            f"({first_line(error)}): "
            f"if they can't be downloaded here, set {pretrained_key} to a file or {name_key} to {LOCAL}PATH"
        ) from error
