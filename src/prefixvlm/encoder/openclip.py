"""An open_clip model's name in, its image tower as an encoder out."""

import difflib
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors import SafetensorError
from torch import Tensor

from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.precision import dtype_of

LOCAL, HUB = "local-dir:", "hf-hub:"
KEYS = ("encoder.model_name", "encoder.pretrained")  # what messages call the two settings of a model
LOAD_ERRORS = (
    RuntimeError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AssertionError,
    pickle.UnpicklingError,
    SafetensorError,
)


class OpenClipEncoder(ImageEncoder):
    """Any open_clip image tower (ViT, ModifiedResNet, timm), frozen unless trained.

    model_name: an open_clip name, or local-dir:PATH to a folder with open_clip_config.json and weights.
    pretrained: a tag of that name or a weights file; None with local-dir, whose weights are in the folder.
    features: "pooled", the vector that CLIP compares with text, or "patch", one vector a patch before any pooling.
    layer: which block's patches (-2 the last but one, as in LLaVA; for a ModifiedResNet 0 is the stem, 4 the last
        stage); None is the last with its final norm.
    normalize: divide each feature by its L2 norm.
    dtype: of a frozen tower: auto (see precision.fast_dtype), float32, bfloat16 or float16; features are float32.
    """

    visual: Any  # open_clip's towers share attributes, but no type

    def __init__(
        self,
        model_name: str,
        pretrained: str | None = None,
        features: str = "pooled",
        layer: int | None = None,
        normalize: bool = False,
        trained: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if features not in ("pooled", "patch"):
            raise ValueError(f"encoder.features is {features!r}, but it must be pooled or patch")
        if layer is not None and features == "pooled":
            raise ValueError(f"encoder.layer is {layer}, but only patches have a layer: set encoder.features=patch")
        if trained and dtype not in ("auto", "float32"):
            raise ValueError(f"encoder.dtype is {dtype}, but a trained encoder is float32: set encoder.dtype=auto")
        kept_in = torch.float32 if trained else dtype_of("encoder.dtype", dtype)
        check_name(model_name, pretrained, trained, KEYS)
        self.layer, self.normalize, self.trained, self.pooled = layer, normalize, trained, features == "pooled"
        self.visual = load_clip(model_name, pretrained, KEYS).visual  # the text tower goes
        self.transform = image_transform_v2(PreprocessCfg(**self.visual.preprocess_cfg), is_train=False)
        if hasattr(self.visual, "output_tokens"):
            self.visual.output_tokens = False  # CoCa's configs set it, and forward would return a tuple
        if isinstance(self.visual, ModifiedResNet) and not self.pooled:
            self.visual.attnpool = None
        self.visual.to(kept_in)
        self._measure()

    def _measure(self) -> None:
        """Sets the widths by a dry run, and which weights are trained: those that the features depend on."""
        self.visual.eval().requires_grad_(self.trained)
        size = self.visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        features = self(torch.zeros(1, 3, height, width))
        self.num_features, self.feature_width = features.shape[1:]
        if self.trained:
            parameters = [p for p in self.visual.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.requires_grad_(gradient is not None)  # DDP fails over a trained weight without a gradient
        self.train()

    def train(self, mode: bool = True) -> "OpenClipEncoder":
        """A frozen encoder stays in eval mode: without gradients its batch norms would still move."""
        return super().train(mode and self.trained)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> features: float[B, N, D]."""
        pixel_values = pixel_values.to(next(self.visual.parameters()).dtype)
        # Mixed precision is for what is trained: it would cast a frozen tower anew at each call.
        own = nullcontext() if self.trained else torch.autocast(pixel_values.device.type, enabled=False)
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()), own:
            features = self.visual(pixel_values)[:, None] if self.pooled else self._patches(pixel_values)
            features = features.float()
            return F.normalize(features, dim=-1) if self.normalize else features

    def _patches(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> float[B, N, D], the patches in reading order, without class tokens."""
        try:
            output = self.visual.forward_intermediates(
                pixel_values,
                indices=1 if self.layer is None else [self.layer],
                # CoCa's last norm belongs to its attention pooling and has another width.
                normalize_intermediates=self.layer is None and getattr(self.visual, "attn_pool", None) is None,
                intermediates_only=True,
                # open_clip 3.3's ModifiedResNet reads this flag the wrong way round.
                stop_early=not isinstance(self.visual, ModifiedResNet),
            )
        except AssertionError as error:
            raise ValueError(f"encoder.layer is {self.layer}, but this encoder has no such layer ({error})") from error
        return output["image_intermediates"][0].flatten(2).transpose(1, 2)


def check_name(model_name: str, pretrained: str | None, trained: bool, keys: tuple[str, str]) -> None:
    """Raises ValueError where open_clip would use random weights, guess, or only log."""
    name_key, pretrained_key = keys
    if model_name.startswith(LOCAL):
        folder = Path(model_name.removeprefix(LOCAL))
        weights = [path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pth")]
        if not (folder / "open_clip_config.json").is_file() or not weights:
            raise ValueError(
                f"{name_key} is {model_name}, but {folder} does not hold an open_clip_config.json and weights: "
                f"make it with `python train.py experiment=clip_pretrain`, or set {name_key}"
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


def load_clip(model_name: str, pretrained: str | None, keys: tuple[str, str]) -> Any:
    """Both towers, in float32; the image tower has its preprocess_cfg. Weights are read as tensors, never as code."""
    name_key, pretrained_key = keys
    try:
        return open_clip.create_model(
            model_name,
            pretrained=pretrained,
            pretrained_text=False,
            # A repository without weights would otherwise be a random model and a warning.
            require_pretrained=pretrained is not None or model_name.startswith((LOCAL, HUB)),
            weights_only=True,
        )
    except LOAD_ERRORS as error:
        raise ValueError(
            f"{pretrained_key} is {pretrained}, but its weights could not be loaded into {model_name} "
            f"({first_line(error)}): "
            f"if they can't be downloaded here, set {pretrained_key} to a file or {name_key} to {LOCAL}PATH"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says first, or its kind if it says nothing, as a bare assert."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
