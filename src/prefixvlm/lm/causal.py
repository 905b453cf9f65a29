"""A Hugging Face causal language model, frozen: embeddings in, hidden states and logits out; it owns its tokenizer."""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import NewGELUActivation
from transformers.cache_utils import Cache

from prefixvlm.lm.blocks import blocks_of, compile_blocks, recompute
from prefixvlm.lm.quantization import options_of
from prefixvlm.precision import dtype_of


def fuse_gelu(model: PreTrainedModel) -> PreTrainedModel:
    """GPT-2's GELU as torch's own: the same formula in one operation instead of eight, each with a tensor to keep."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


class CausalLM(nn.Module):
    """A causal language model of which not one weight changes; gradients pass through it to what it reads.

    width: E. eos_id ends every text; pad_id fills rows (masked, never trained); bos_ids stand before the first text
    where the tokenizer puts them there (Llama, OPT), and are empty elsewhere (GPT-2, SmolLM2).
    """

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
        self.eval()
        self.tokenizer = tokenizer
        self.width = self._embedding().embedding_dim
        self.eos_id = int(tokenizer.eos_token_id)
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id)
        self.bos_ids = [i for i in tokenizer("").input_ids if i == tokenizer.bos_token_id and i != self.eos_id]
        if tokenizer.bos_token_id == self.eos_id and tokenizer("").input_ids[:1] == [self.eos_id]:
            self.bos_ids = [self.eos_id]  # OPT: one id serves as both
        self.max_positions: int | None = getattr(model.config, "max_position_embeddings", None)
        self.takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters
        self.compiled = bool(compile)
        self._check_head()
        if activation_checkpointing:
            recompute(self.blocks)
        if compile:
            compile_blocks(self.blocks, "inductor" if compile is True else str(compile))

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
    ) -> "CausalLM":
        """Load a hub id or a local folder.

        dtype: auto (see precision.fast_dtype), float32, bfloat16 or float16. attention: sdpa, eager or
        flash_attention_2. quantization: null, int8 or nf4, of the blocks' matrices; auto is then bfloat16, for what a
        quantised model is depends on its dtype, and machines should agree. activation_checkpointing: in training the
        blocks are computed twice and keep little. compile: true, or the name of a torch.compile backend, of the
        blocks; where a text is read on they run as they are.
        Raises ValueError where the weights cannot be had or do not fill the model.
        """
        wanted = dtype_of("lm.dtype", "bfloat16" if quantization and dtype == "auto" else dtype)
        quantized = options_of(quantization, wanted)
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=wanted,
                attn_implementation=attention,
                revision=revision,
                trust_remote_code=False,
                output_loading_info=True,
                **quantized,
            )
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        except OSError as error:
            raise ValueError(
                f"the language model {name!r} is neither a local folder nor to be had from the hub "
                f"({str(error).splitlines()[0]}); set lm.name"
            ) from error
        model, report = loaded
        if unfilled := [*report["missing_keys"], *report["mismatched_keys"]]:
            raise ValueError(f"the weights of {name!r} lack {unfilled[0]} and {len(unfilled) - 1} more; set lm.name")
        if eos_token is not None:
            tokenizer.eos_token = eos_token
        return cls(model, tokenizer, activation_checkpointing, compile)

    def train(self, mode: bool = True) -> "CausalLM":
        """Stay in eval mode: a frozen model has no dropout."""
        return super().train(False)

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
        """Last hidden states, ready for the head.

        inputs_embeds: float[S, T, E]; attention_mask: bool[S, past + T]; position_ids: int[S, T] -> float[S, T, E].
        The cache, where given, grows by T positions. Without a mask, transformers parts texts where positions restart.
        """
        positions = {"position_ids": position_ids} if self.takes_positions else {}
        # Compiled code would be made anew as a cache grows, and mixed precision would cast the weights at each call.
        eager = torch.compiler.set_stance("force_eager") if self.compiled and cache is not None else nullcontext()
        with eager, torch.autocast(inputs_embeds.device.type, enabled=False):
            output = self.model.base_model(
                inputs_embeds=inputs_embeds,
                attention_mask=None if attention_mask is None else attention_mask.long(),
                past_key_values=cache,
                use_cache=cache is not None,
                **positions,
            )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: float[..., E'] -> float32[..., V]; callers pass only the positions that they use."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.model.get_output_embeddings()(hidden).float()

    def _embedding(self) -> nn.Embedding:
        embedding = self.model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a model that does more to its hidden states than its head (scaled or capped logits)."""
        ids = torch.tensor([[self.eos_id, self.pad_id]], device=self.model.device)
        if ids.device.type == "meta":
            return
        mask, positions = torch.ones_like(ids, dtype=torch.bool), torch.arange(2, device=ids.device)[None]
        ours = self.logits(self.hidden(self.embed(ids), mask, positions))
        theirs = self.model(input_ids=ids, attention_mask=mask.long()).logits.float()
        if not torch.allclose(ours, theirs, atol=1e-2, rtol=1e-2):
            raise ValueError(
                f"{type(self.model).__name__} changes its logits after the head (a scale or a cap), "
                "which prefixvlm does not do; set lm to another model"
            )
