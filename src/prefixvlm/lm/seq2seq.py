"""Frozen encoder-decoder language models from Hugging Face: the encoder reads the prompt, the decoder generates."""

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig
from transformers.cache_utils import Cache

from prefixvlm.batch import IGNORE_INDEX
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.lm.loading import load_model


class Seq2SeqLM(LanguageModel):
    """An encoder-decoder (T5, Flan-T5): the encoder reads the prompt with its images, the decoder learns the target.

    first_id: first input of the decoder.
    """

    encodes_prompts = True

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        dtype: str = "auto",
        attention: str = "sdpa",
        eos_token: str | None = None,
        revision: str | None = None,
        quantization: str | None = None,
        activation_checkpointing: bool = False,
        compile: bool | str = False,
        weights: str = "pretrained",
    ) -> "Seq2SeqLM":
        """Load a model; see CausalLM.from_pretrained for the options."""
        loaded = load_model(AutoModelForSeq2SeqLM, name, dtype, attention, eos_token, revision, quantization, weights)
        return cls(*loaded, activation_checkpointing, compile)

    def check(self) -> None:
        config = self.model.config
        # T5's tokenizer ends every text with EOS; a prompt of several texts must have one at its end alone.
        around = list(self.tokenizer("").input_ids)
        self.start_ids, self.end_ids, self.bos_ids = around[:-1], around[-1:], []
        first_id = getattr(config, "decoder_start_token_id", None)
        self.first_id = self.pad_id if first_id is None else int(first_id)
        # The first T5 shares one matrix between embeddings and head, and scales its states before the head.
        self.scale = self.width**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
        if self.model.device.type != "meta":
            self._check_head()

    def logits(self, hidden: Tensor) -> Tensor:
        return super().logits(hidden * self.scale)

    def encode(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """embeds: float[S, T, E]; mask: bool[S, T] -> float[S, T, E']."""
        with self.forward_context(embeds):
            return self._part("encoder")(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state

    def decode(self, embeds: Tensor, encoded: Tensor, encoded_mask: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the decoder's hidden states; the cache, if given, grows by n positions.

        embeds: float[S, n, E], of texts that start at the same position; encoded: float[S, T, E'], the prompts;
        encoded_mask: bool[S, T] -> float[S, n, E']. With a cache of the prompts only the shape of `encoded` matters.
        """
        with self.forward_context(embeds, cache):
            output = self._part("decoder")(
                inputs_embeds=embeds,
                encoder_hidden_states=encoded,
                encoder_attention_mask=encoded_mask.long(),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return output.last_hidden_state

    def hidden_at(self, embeds: Tensor, mask: Tensor, selected: Tensor) -> Tensor:
        """Return states of the encoder, which has read the whole row at every position."""
        return self.encode(embeds, mask)[selected]

    def supervised_states(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's states and its targets. Raises ValueError if a row is supervised before its end."""
        supervised = labels != IGNORE_INDEX
        prompt = mask & ~supervised
        if (supervised[:, :-1] & prompt[:, 1:]).any():
            raise ValueError(
                f"{type(self.model).__name__} reads a row's prompt with its encoder, which cannot be supervised, and a "
                "row has supervised turns in its middle; set lm to a decoder such as gpt2 or smollm2"
            )
        # Targets follow the prompt in a row; here they move to the decoder, aligned to its position 0.
        lengths, width = prompt.sum(1), int(prompt.sum(1).max())
        encoded = self.encode(embeds[:, :width], prompt[:, :width])
        positions = torch.arange(int(supervised.sum(1).max()), device=mask.device)
        is_target = positions < supervised.sum(1)[:, None]
        # clamp_max: rows with shorter targets would index past the end; is_target removes what they gather there.
        target = labels.gather(1, (lengths[:, None] + positions).clamp_max(labels.shape[1] - 1))
        # Teacher forcing: the target, shifted right by first_id. clamp_min turns IGNORE_INDEX into an id to embed.
        inputs = torch.cat([torch.full_like(target[:, :1], self.first_id), target[:, :-1]], 1).clamp_min(0)
        return self.decode(self.embed(inputs), encoded, prompt[:, :width])[is_target], target[is_target]

    @property
    def decoder_config(self) -> PreTrainedConfig:
        # Not model.config: encoder and decoder may differ in depth, and a cache has one layer per decoder block.
        config = self._part("decoder").config
        assert isinstance(config, PreTrainedConfig)
        return config

    def _part(self, name: str) -> nn.Module:
        return getattr(self.model.base_model, name)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Raise ValueError if the model's logits are not head(scale * hidden), because of a bias or a cap (BART)."""
        ids = torch.tensor([[self.eos_id, self.pad_id]], device=self.model.device)
        embeds, mask = self.embed(ids), torch.ones_like(ids, dtype=torch.bool)
        ours = self.logits(self.decode(embeds, self.encode(embeds, mask), mask))
        theirs = self.model(input_ids=ids, decoder_input_ids=ids).logits.float()
        if not torch.allclose(ours, theirs, atol=1e-2, rtol=1e-2):
            raise ValueError(
                f"{type(self.model).__name__} changes its logits after the head (a bias or a cap), "
                "which prefixvlm does not do; set lm to another model"
            )
