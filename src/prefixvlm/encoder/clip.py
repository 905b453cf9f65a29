"""Images or texts go in, an open_clip model's normalised features come out: the judge of CLIPScore and retrieval."""

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from prefixvlm.encoder.openclip import OpenClipEncoder, check_name, load_clip
from prefixvlm.encoder.pretrained import LOAD_ERRORS, first_line

KEYS = ("clip.name", "clip.pretrained")  # what messages call the two settings


class Clip(nn.Module):
    """Both towers of an open_clip model with their transform and tokenizer, frozen and always in eval mode.

    name: an open_clip name, local-dir:PATH or hf-hub:REPOSITORY. pretrained: a tag of that name or a weights file;
        None with the latter two, which bring their weights. batch_size: how many images or texts at once.
    Raises ValueError where the model or its tokenizer cannot be had.
    """

    model: Any  # open_clip's models share methods, but no type

    def __init__(self, name: str, pretrained: str | None = None, batch_size: int = 64) -> None:
        super().__init__()
        check_name(name, pretrained, trained=False, keys=KEYS)
        self.name, self.pretrained, self.batch_size = name, pretrained, batch_size
        self.model = load_clip(name, pretrained, KEYS).eval().requires_grad_(False)
        self.transform = image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)
        self.tokenizer = load_tokenizer(name)

    def train(self, mode: bool = True) -> "Clip":
        """Stays in eval mode: batch norms would move and patches be dropped."""
        return super().train(False)

    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """float32[B, D] on the CPU, each row of L2 norm 1."""
        return self._features(
            images, lambda batch: torch.stack([self.transform(image) for image in batch]), self.model.encode_image
        )

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """float32[S, D] on the CPU, each row of L2 norm 1; a text longer than the context is cut by the tokenizer."""
        return self._features(texts, lambda batch: self.tokenizer(list(batch)), self.model.encode_text)

    @torch.no_grad()
    def _features(
        self, items: Sequence[Any], prepare: Callable[[Any], Tensor], encode: Callable[..., Tensor]
    ) -> Tensor:
        if isinstance(items, str) or not len(items):
            raise ValueError(f"a list of images or texts is needed, not {items!r}")
        device = next(self.parameters()).device
        batches = (items[start : start + self.batch_size] for start in range(0, len(items), self.batch_size))
        return torch.cat([encode(prepare(batch).to(device), normalize=True).float().cpu() for batch in batches])

    def same_image_tower(self, encoder: nn.Module) -> bool:
        """Whether a model was trained on this judge's own view of images, so that its scores flatter that model.

        True if every weight and buffer of an OpenClipEncoder is that of this image tower, in the encoder's precision;
        the encoder may lack some, as the pooling that patches do without. An encoder that was trained further differs.
        """
        if not isinstance(encoder, OpenClipEncoder):
            return False
        own = self.model.visual.state_dict()
        return all(
            name in own and torch.equal(own[name].cpu().to(value.dtype), value.cpu())
            for name, value in encoder.visual.state_dict().items()
        )


def load_tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    """open_clip's tokenizer of a model, texts to int[S, T]; no code runs, whatever a folder's configuration asks."""
    name_key, _ = KEYS
    try:
        # tokenizer_kwargs of a configuration go to AutoTokenizer; only a keyword of ours overrides them.
        by_transformers = bool(open_clip.get_model_config(name)["text_cfg"].get("hf_tokenizer_name"))
        return open_clip.get_tokenizer(name, **({"trust_remote_code": False} if by_transformers else {}))
    except LOAD_ERRORS as error:
        raise ValueError(
            f"the tokenizer of {name} could not be loaded ({first_line(error)}): set {name_key} to another"
        ) from error
