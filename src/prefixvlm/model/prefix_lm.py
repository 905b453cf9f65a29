"""PrefixLM: image encoder, mapper and frozen language model, with the loss of each supervised token."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prefixvlm.batch import Batch
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.mapper.interface import Mapper
from prefixvlm.model.splice import splice
from prefixvlm.model.token_losses import token_losses
from prefixvlm.options.ranges import BelowOne, NonNegativeFloat, check_value


class PrefixLM(nn.Module):
    """A frozen language model with images as a learned prefix (Frozen, eq. 1; ClipCap, eq. 4).

    heads: by task name, for tasks with numeric outputs instead of text.
    feature_noise: standard deviation of Gaussian noise on the features in training (CapDec, Nukrai et al. 2022).
    label_smoothing: of the training loss, for tokens, classes and tags.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        mapper: Mapper,
        lm: LanguageModel,
        heads: Mapping[str, nn.Module] | None = None,
        feature_noise: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_value("module.feature_noise", feature_noise, NonNegativeFloat)
        check_value("module.label_smoothing", label_smoothing, BelowOne)
        self.encoder = encoder
        self.mapper = mapper
        self.lm = lm
        self.heads = nn.ModuleDict(heads or {})
        self.feature_noise, self.label_smoothing = feature_noise, label_smoothing

    @property
    def smoothing(self) -> float:
        """The label smoothing in training, 0 in evaluation."""
        # A smoothed validation loss would not compare across values of label_smoothing.
        return self.label_smoothing if self.training else 0.0

    def prefix_embeds(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W] -> float[B, P, E]."""
        if not len(pixel_values):  # rows of text only
            return pixel_values.new_empty(0, self.mapper.prefix_length, self.lm.width)
        return self.mapper(self.features(pixel_values))

    def features(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float[B, 3, H, W], or features float32[B, N, D] -> float[B, N, D], in training with noise."""
        kept = pixel_values.ndim == 3 and not self.encoder.reads_features  # by data.cache_features
        features = pixel_values.float() if kept else self.encoder(pixel_values)
        features = features.contiguous()  # as stored ones are: matrix products of another layout may round otherwise
        if not (self.training and self.feature_noise):
            return features
        # CapDec adds noise on CLIP's unit sphere; each feature vector gets its norm back.
        noisy = features + self.feature_noise * torch.randn_like(features)
        return noisy * (features.norm(dim=-1, keepdim=True) / noisy.norm(dim=-1, keepdim=True))

    def inputs_embeds(self, batch: Batch, learned: Tensor | None = None) -> Tensor:
        """Return the language model's input embeddings: float[S, T, E]. learned: float[E], used at LEARNED_ID."""
        prefixes = self.prefix_embeds(batch.pixel_values)
        return splice(batch.input_ids, prefixes, batch.image_index, self.lm.embed, learned)

    def forward(self, batch: Batch) -> Tensor:
        """Return the cross entropy of each supervised token, in reading order: float32[number of such tokens]."""
        # Only the hidden states that predict a target reach the head: logits of prefixes and prompts would take most
        # of the memory.
        hidden, targets = self.lm.supervised_states(self.inputs_embeds(batch), batch.attention_mask, batch.labels)
        head_is_trained = any(parameter.requires_grad for parameter in self.lm.head.parameters())
        return token_losses(hidden, targets, self.lm.logits, head_is_trained, self.smoothing)
