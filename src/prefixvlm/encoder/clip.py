"""A whole CLIP model, images and texts to normalized features, for CLIPScore and retrieval."""

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor, nn

from prefixvlm.encoder.loading import LOAD_ERRORS, first_line
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.encoder.openclip_loading import check_name, load_clip
from prefixvlm.encoder.transforms import open_clip_transform
from prefixvlm.options.ranges import Positive

KEYS = ("clip_scorer.name", "clip_scorer.pretrained")  # the keys of name and pretrained in error messages


class Clip(nn.Module):
    """Image and text encoder of an open_clip model with its transform and tokenizer; frozen, always in eval mode.

    name: an open_clip name, local-dir:PATH or hf-hub:REPOSITORY. pretrained: a tag of that name or a weights file;
        None with local-dir and hf-hub, which have weights of their own. batch_size: number of images or texts at once.
    Raises ValueError if the model or its tokenizer cannot be loaded.
    """

    model: Any  # open_clip's models share methods, but no type

    def __init__(self, name: str, pretrained: str | None = None, batch_size: Positive = 64) -> None:
        super().__init__()
        check_name(name, pretrained, trained=False, keys=KEYS)
        self.name, self.pretrained, self.batch_size = name, pretrained, batch_size
        self.model = load_clip(name, pretrained, KEYS).eval().requires_grad_(False)
        self.transform = open_clip_transform(self.model.visual.preprocess_cfg)
        self.tokenizer = load_tokenizer(name)

    def train(self, mode: bool = True) -> "Clip":
        """Stay in eval mode: in train mode batch norms would update and patch dropout would drop patches."""
        return super().train(False)

    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return float32[B, D] on the CPU, each row of L2 norm 1."""
        return self._features(
            images, lambda batch: torch.stack([self.transform(image) for image in batch]), self.model.encode_image
        )

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Return float32[S, D] on the CPU, each row of L2 norm 1; the tokenizer cuts texts to the context length."""
        return self._features(texts, lambda batch: self.tokenizer(list(batch)), self.model.encode_text)

    @torch.no_grad()
    def _features(
        self, items: Sequence[Any], prepare: Callable[[Any], Tensor], encode: Callable[..., Tensor]
    ) -> Tensor:
        # A string is a sequence too, and each of its letters would be a text.
        if isinstance(items, str) or not len(items):
            raise ValueError(f"a list of images or texts is needed, not {items!r}")
        device = next(self.parameters()).device
        batches = (items[start : start + self.batch_size] for start in range(0, len(items), self.batch_size))
        return torch.cat([encode(prepare(batch).to(device), normalize=True).float().cpu() for batch in batches])

    def same_image_encoder(self, encoder: nn.Module) -> bool:
        """Return whether a model's encoder is this image encoder: CLIPScore then favours that model.

        True if each weight and buffer of an OpenClipEncoder equals the one here, cast to the encoder's precision.
        """
        if not isinstance(encoder, OpenClipEncoder):
            return False
        own = self.model.visual.state_dict()
        # One way only: the encoder may lack weights, such as the attention pool that patch features do without.
        return all(
            name in own and torch.equal(own[name].cpu().to(value.dtype), value.cpu())
            for name, value in encoder.visual.state_dict().items()
        )


def load_tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    """Return open_clip's tokenizer of a model: texts to int[S, T].

    Never runs code of a model's folder. Raises ValueError if the tokenizer cannot be loaded.
    """
    name_key, _ = KEYS
    try:
        # open_clip passes a configuration's tokenizer_kwargs to AutoTokenizer, and they may ask for remote code: only a
        # keyword argument overrides them.
        by_transformers = bool(open_clip.get_model_config(name)["text_cfg"].get("hf_tokenizer_name"))
        return open_clip.get_tokenizer(name, **({"trust_remote_code": False} if by_transformers else {}))
    except LOAD_ERRORS as error:
        raise ValueError(
            f"the tokenizer of {name} could not be loaded ({first_line(error)}): set {name_key} to another"
        ) from error
