"""LanguageModel, the base class of frozen language models. Only a Tuning makes some of the weights trainable."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import NewGELUActivation
from transformers.cache_utils import Cache

from prefixvlm.lm.blocks import blocks_of, compile_blocks, enable_activation_checkpointing
from prefixvlm.lm.chat import Chat
from prefixvlm.lm.freezing import freeze


def fuse_gelu(model: PreTrainedModel) -> PreTrainedModel:
    """Replace GPT-2's GELU by the same formula (tanh approximation) in torch."""
    # transformers writes the formula as eight operations; autograd stores a tensor of the MLP's width for most of them.
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


def attention_window(config: PreTrainedConfig) -> int | None:
    """Return the length of the sliding attention window, or None if all layers attend to all positions."""
    # Mistral's configuration has sliding_window alone; those with layer_types (Qwen2) may set it without such a layer.
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    return getattr(config, "sliding_window", None) if "sliding_attention" in kinds else None


class LanguageModel(nn.Module, ABC):
    """Base class of frozen language models. Gradients flow through the model to its input embeddings.

    width: E, of the input embeddings. state_width: E', of the last hidden states.
    eos_id: ends every text. pad_id: fills rows; padding is masked, and never a label.
    bos_ids: tokens before the first text if the tokenizer adds them (OPT), else empty (GPT-2).
    start_ids, end_ids: tokens before everything and after every prompt (BERT, T5; lm.start_token).
    max_positions: the longest row, or None for no limit (ALiBi, relative positions); at most `window`.
    chat: the chat template, or None for plain text.
    generates: whether the model generates text. encodes_prompts: whether an encoder reads the prompts (T5).
    tuned_modules: modules that follow train() because a Tuning trains them or their dropout.
    own_weights_tuned: whether pretrained weights are trained; the model then runs in mixed precision, too.
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
        self.model = freeze(fuse_gelu(model))
        self.tuned_modules: list[nn.Module] = []
        self.own_weights_tuned = False
        self.eval()  # models built from a configuration start in training mode, with dropout
        self.tokenizer = tokenizer
        self.width = self.state_width = self._embedding().embedding_dim
        self.eos_id = int(tokenizer.eos_token_id)
        # GPT-2 has no padding token. EOS can serve: padding is found by attention_mask, never by its id.
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id)
        self.bos_ids = [i for i in tokenizer("").input_ids if i == tokenizer.bos_token_id and i != self.eos_id]
        if tokenizer.bos_token_id == self.eos_id and tokenizer("").input_ids[:1] == [self.eos_id]:
            self.bos_ids = [self.eos_id]  # OPT: one id serves as both
        self.chat: Chat | None = None
        self.start_ids: list[int] = []
        self.end_ids: list[int] = []
        # A sliding window counts padding, too: a longer text would not have the same states alone and in a batch.
        self.window = attention_window(model.config)
        limits = [getattr(model.config, "max_position_embeddings", None), self.window]
        self.max_positions: int | None = min((limit for limit in limits if limit is not None), default=None)
        self.compiled = bool(compile)
        self.check()
        # After the checks, which run the model: they need no compiled code.
        if activation_checkpointing:
            enable_activation_checkpointing(self.blocks)
        if compile:
            compile_blocks(self.blocks, "inductor" if compile is True else str(compile))

    def check(self) -> None:
        """Set what depends on the kind of model. Raises ValueError for a model that the subclass does not support."""

    def require_text(self) -> None:
        """Raise ValueError if the model does not generate text; the message names models that do."""

    def train(self, mode: bool = True) -> "LanguageModel":
        """Set the mode of tuned modules only; frozen ones stay in eval mode, without dropout."""
        super().train(False)
        for module in self.tuned_modules:
            module.train(mode)
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding().weight.dtype

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, in the order of the forward pass."""
        return blocks_of(self.model)

    def embed(self, input_ids: Tensor) -> Tensor:
        """input_ids: int[...] -> float[..., E]."""
        return self._embedding()(input_ids)

    def hidden(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Return the last hidden states of a decoder-only model; see CausalLM."""
        raise TypeError(f"{type(self).__name__} does not define hidden")

    @abstractmethod
    def hidden_at(self, embeds: Tensor, mask: Tensor, selected: Tensor) -> Tensor:
        """Return the last hidden states at the selected positions of right-padded rows, in reading order.

        embeds: float[S, T, E]; mask, selected: bool[S, T] -> float[number selected, E'].
        """

    @abstractmethod
    def supervised_states(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden states that predict each supervised token, and the target ids, in reading order.

        embeds: float[S, T, E]; mask: bool[S, T]; labels: int[S, T], IGNORE_INDEX where not supervised.
        Returns float[N, E'] and int[N].
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: float[..., E'] -> float32[..., V]."""
        weight = next(self.head.parameters())
        with self.autocast(hidden):
            # A last projection may have left another dtype than the head's, as that of OPT-350m.
            return self.head(hidden.to(weight.dtype)).float()

    @property
    def head(self) -> nn.Module:
        head = self.model.get_output_embeddings()
        assert head is not None
        return head

    def autocast(self, like: Tensor) -> AbstractContextManager[None]:
        """Return a context with mixed precision only if pretrained weights are trained."""
        # Autocast caches the cast of a weight only if it requires grad; frozen ones would be cast at every call.
        device = like.device.type
        return torch.autocast(device, enabled=self.own_weights_tuned and torch.is_autocast_enabled(device))

    @contextmanager
    def forward_context(self, embeds: Tensor, cache: Cache | None = None) -> Iterator[None]:
        """Context of the Hugging Face model's forward: precision, and no compiled code with a cache."""
        # A cache changes its shapes at every step of decoding, and the blocks would be compiled again for them.
        eager = torch.compiler.set_stance("force_eager") if self.compiled and cache is not None else nullcontext()
        with eager, self.autocast(embeds):
            yield

    def _embedding(self) -> nn.Embedding:
        embedding = self.model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding
