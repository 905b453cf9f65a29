"""A Hugging Face encoder-decoder, frozen: prompts in as embeddings, the states that say the text after them out."""

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig
from transformers.cache_utils import Cache

from prefixvlm.batch import IGNORE_INDEX
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.lm.loading import load_model


class Seq2SeqLM(LanguageModel):
    """T5, Flan-T5 and others whose encoder reads the prompt with its images, and whose decoder says the target.

    first_id: what the decoder reads before it says anything.
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
        """The options are those of CausalLM.from_pretrained."""
        loaded = load_model(AutoModelForSeq2SeqLM, name, dtype, attention, eos_token, revision, quantization, weights)
        return cls(*loaded, activation_checkpointing, compile)

    def check(self) -> None:
        config = self.model.config
        around = list(self.tokenizer("").input_ids)
        self.start_ids, self.end_ids, self.bos_ids = around[:-1], around[-1:], []
        first_id = getattr(config, "decoder_start_token_id", None)
        self.first_id = self.pad_id if first_id is None else int(first_id)
        # The first T5 has one matrix for words in and out, and makes its states smaller before it.
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
        """What comes next after each position of texts, which begin together: float[S, n, E] -> float[S, n, E'].

        encoded: float[S, T, E'], the prompts; encoded_mask: bool[S, T]. The cache, where given, grows by n positions;
        of `encoded` only the shape counts once it holds the prompts.
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

    def hidden_at(self, embeds: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """The encoder's."""
        return self.encode(embeds, mask)[wanted]

    def supervised_states(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder reads its first id and the target, and says the target; it never sees the prompt but encoded.

        Raises ValueError where something is supervised before a row's end: it has no place in an encoder.
        """
        said = labels != IGNORE_INDEX
        prompt = mask & ~said
        if (said[:, :-1] & prompt[:, 1:]).any():
            raise ValueError(
                f"{type(self.model).__name__} reads a row's prompt with its encoder, which cannot be supervised, and a "
                "row has supervised turns in its middle; set lm to a decoder such as gpt2 or smollm2"
            )
        lengths, width = prompt.sum(1), int(prompt.sum(1).max())
        encoded = self.encode(embeds[:, :width], prompt[:, :width])
        places = torch.arange(int(said.sum(1).max()), device=mask.device)
        has = places < said.sum(1)[:, None]
        target = labels.gather(1, (lengths[:, None] + places).clamp_max(labels.shape[1] - 1))
        read = torch.cat([torch.full_like(target[:, :1], self.first_id), target[:, :-1]], 1).clamp_min(0)
        return self.decode(self.embed(read), encoded, prompt[:, :width])[has], target[has]

    @property
    def decoder_config(self) -> PreTrainedConfig:
        config = self._part("decoder").config
        assert isinstance(config, PreTrainedConfig)
        return config

    def _part(self, name: str) -> nn.Module:
        return getattr(self.model.base_model, name)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a model that does more to its hidden states than its head and the scale."""
        ids = torch.tensor([[self.eos_id, self.pad_id]], device=self.model.device)
        embeds, mask = self.embed(ids), torch.ones_like(ids, dtype=torch.bool)
        ours = self.logits(self.decode(embeds, self.encode(embeds, mask), mask))
        theirs = self.model(input_ids=ids, decoder_input_ids=ids).logits.float()
        if not torch.allclose(ours, theirs, atol=1e-2, rtol=1e-2):
            raise ValueError(
                f"{type(self.model).__name__} changes its logits after the head (a bias or a cap), "
                "which prefixvlm does not do; set lm to another model"
            )
