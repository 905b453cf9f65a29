"""What a language model is: embeddings in, hidden states out; it owns its tokenizer, and nothing of it is trained
unless a way of tuning says so."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import NewGELUActivation
from transformers.cache_utils import Cache

from prefixvlm.lm.blocks import blocks_of, compile_blocks, enable_activation_checkpointing
from prefixvlm.lm.chat import Chat


def fuse_gelu(model: PreTrainedModel) -> PreTrainedModel:
    """GPT-2's GELU as torch's own: the same formula in one operation instead of eight, each with a tensor to keep."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


def _window(config: PreTrainedConfig) -> int | None:
    """How far back some layer sees; None where all see everything."""
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    return getattr(config, "sliding_window", None) if "sliding_attention" in kinds else None


class LanguageModel(nn.Module):
    """A frozen language model; gradients pass through it to what it reads. Subclasses define the methods below.

    width: E, of what it reads. state_width: E', of its hidden states. eos_id ends every text; pad_id fills rows (it is
    masked, and never trained); bos_ids stand before the first text where the tokenizer puts them there (OPT), and are
    empty elsewhere (GPT-2). start_ids stand before everything, end_ids after every prompt (BERT, T5).
    max_positions: None where there is no limit (ALiBi, relative positions); no more than `window`, which counts padding
    too, so that beyond it a text would not be the same alone and in a batch.
    chat: its chat template, where texts are to be turns of a chat.
    generates: whether it can say what comes next. encodes_prompts: whether prompts are read by an encoder apart (T5).
    tuned_modules: those that follow train() where something of the model is tuned: with dropout, or adapters.
    own_weights_tuned: whether weights that it was loaded with are tuned; mixed precision is then for it too.
    """

    generates = True
    encodes_prompts = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        activation_checkpointing: bool = False,
        compile: bool | str = False,
    ) -> None:
        super().__init__()
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token, so texts could never end; set one with lm.eos_token")
        self.model = fuse_gelu(model).requires_grad_(False)
        self.tuned_modules: list[nn.Module] = []
        self.own_weights_tuned = False
        self.eval()
        self.tokenizer = tokenizer
        self.width = self.state_width = self._embedding().embedding_dim
        self.eos_id = int(tokenizer.eos_token_id)
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id)
        self.bos_ids = [i for i in tokenizer("").input_ids if i == tokenizer.bos_token_id and i != self.eos_id]
        if tokenizer.bos_token_id == self.eos_id and tokenizer("").input_ids[:1] == [self.eos_id]:
            self.bos_ids = [self.eos_id]  # OPT: one id serves as both
        self.chat: Chat | None = None
        self.start_ids: list[int] = []
        self.end_ids: list[int] = []
        self.window = _window(model.config)
        limits = [getattr(model.config, "max_position_embeddings", None), self.window]
        self.max_positions: int | None = min((limit for limit in limits if limit is not None), default=None)
        self.compiled = bool(compile)
        self.check()
        if activation_checkpointing:
            enable_activation_checkpointing(self.blocks)
        if compile:
            compile_blocks(self.blocks, "inductor" if compile is True else str(compile))

    def check(self) -> None:
        """Refuse, with a ValueError, a model that does what the subclass cannot."""

    def require_text(self) -> None:
        """Raise ValueError, with what to set, if it says no text."""

    def train(self, mode: bool = True) -> "LanguageModel":
        """Stay in eval mode, but for what is tuned: a frozen model has no dropout."""
        super().train(False)
        for module in self.tuned_modules:
            module.train(mode)
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding().weight.dtype

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, in reading order."""
        return blocks_of(self.model)

    def embed(self, input_ids: Tensor) -> Tensor:
        """input_ids: int[...] -> float[..., E]."""
        return self._embedding()(input_ids)

    def hidden(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """What a model that generates, and reads prompts and answers alike, says after each position; see CausalLM."""
        raise TypeError(f"{type(self).__name__} does not define hidden")

    def hidden_at(self, embeds: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """Last hidden states at some positions of right-padded rows.

        embeds: float[S, T, E]; mask, wanted: bool[S, T] -> float[number wanted, E'], in reading order.
        """
        raise TypeError(f"{type(self).__name__} does not define hidden_at")

    def supervised_states(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The states that say each supervised token, and those tokens: float[N, E'], int[N], in reading order.

        embeds: float[S, T, E]; mask: bool[S, T]; labels: int[S, T], IGNORE_INDEX where not supervised.
        """
        raise TypeError(f"{type(self).__name__} does not define supervised_states")

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: float[..., E'] -> float32[..., V]; callers pass only the positions that they use."""
        weight = next(self.head.parameters())
        with self.autocast(hidden):
            return self.head(hidden.to(weight.dtype)).float()  # a last projection may have left another, as OPT-350m's

    @property
    def head(self) -> nn.Module:
        head = self.model.get_output_embeddings()
        assert head is not None
        return head

    def autocast(self, like: Tensor) -> Any:
        """Mixed precision is off where weights are frozen: it would cast them at each call."""
        device = like.device.type
        return torch.autocast(device, enabled=self.own_weights_tuned and torch.is_autocast_enabled(device))

    @contextmanager
    def forward_context(self, embeds: Tensor, cache: Cache | None = None) -> Iterator[None]:
        """Around the model's own forward; without compiled code where a cache grows, for it would be made anew."""
        eager = torch.compiler.set_stance("force_eager") if self.compiled and cache is not None else nullcontext()
        with eager, self.autocast(embeds):
            yield

    def _embedding(self) -> nn.Embedding:
        embedding = self.model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding
