"""A Hugging Face causal language model, frozen: embeddings in, hidden states and logits out; it owns its tokenizer."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import NewGELUActivation
from transformers.cache_utils import Cache


def fast_dtype() -> torch.dtype:
    """bfloat16 where the machine multiplies it fast (a GPU, a CPU with AVX512-BF16 or AMX), float32 elsewhere."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if torch.backends.mps.is_available():
        return torch.bfloat16
    # The public torch.cpu.get_capabilities is not there yet in torch 2.11.
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


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

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
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
        self._check_head()

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        dtype: str = "auto",
        attention: str = "sdpa",
        eos_token: str | None = None,
        revision: str | None = None,
    ) -> "CausalLM":
        """Load a hub id or a local folder.

        dtype: auto (see fast_dtype), float32, bfloat16 or float16. attention: sdpa, eager or flash_attention_2.
        Raises ValueError where the weights cannot be had or do not fill the model.
        """
        if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"lm.dtype is {dtype!r}; accepted are auto, float32, bfloat16 and float16")
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=fast_dtype() if dtype == "auto" else getattr(torch, dtype),
                attn_implementation=attention,
                revision=revision,
                trust_remote_code=False,
                output_loading_info=True,
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
        return cls(model, tokenizer)

    def train(self, mode: bool = True) -> "CausalLM":
        """Stay in eval mode: a frozen model has no dropout."""
        return super().train(False)

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding().weight.dtype

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
