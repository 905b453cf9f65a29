"""Frozen bidirectional encoders from Hugging Face. They generate no text."""

from typing import NoReturn

from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.lm.loading import load_model


class MaskedLM(LanguageModel):
    """BERT, RoBERTa, MiniLM and others, for tasks with a head: every state depends on the whole row."""

    generates = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        activation_checkpointing: bool = False,
        compile: bool | str = False,
    ) -> None:
        # Heads read the states. A pooler is not in every checkpoint, and its random weights would be fingerprinted.
        if getattr(model, "pooler", None) is not None:
            setattr(model, "pooler", None)  # noqa: B010  (typed as a module)
        if tokenizer.eos_token is None:
            tokenizer.eos_token = tokenizer.sep_token  # BERT ends texts with [SEP]
        super().__init__(model, tokenizer, activation_checkpointing, compile)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        dtype: str = "auto",
        attention: str = "sdpa",
        revision: str | None = None,
        quantization: str | None = None,
        activation_checkpointing: bool = False,
        compile: bool | str = False,
        weights: str = "pretrained",
    ) -> "MaskedLM":
        """Load a model; see CausalLM.from_pretrained for the options."""
        loaded = load_model(AutoModel, name, dtype, attention, None, revision, quantization, weights, unused="pooler.")
        return cls(*loaded, activation_checkpointing, compile)

    def check(self) -> None:
        # [CLS] and [SEP] stand around the whole row, and not around each of its texts.
        around = list(self.tokenizer("").input_ids)
        self.start_ids, self.end_ids, self.bos_ids = around[:-1], around[-1:], []
        self.state_width = int(self.model.config.hidden_size)
        # RoBERTa numbers positions from padding_idx + 1 and counts those before it in max_position_embeddings.
        positions = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        padding = getattr(positions, "padding_idx", None)
        if self.max_positions is not None and padding is not None:
            self.max_positions -= int(padding) + 1

    def hidden_at(self, embeds: Tensor, mask: Tensor, selected: Tensor) -> Tensor:
        with self.forward_context(embeds):
            return self.model(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state[selected]

    def hidden(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor, cache: Cache | None = None
    ) -> NoReturn:
        self.require_text()

    def supervised_states(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> NoReturn:
        self.require_text()

    def require_text(self) -> NoReturn:
        raise ValueError(
            f"{type(self.model).__name__} generates no text: it is for tasks with a head, such as "
            "task=regression and task=tagging; for this task set lm=gpt2, smollm2 or flan_t5"
        )
