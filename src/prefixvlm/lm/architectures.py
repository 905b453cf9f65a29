"""Architectures of known language models by hub id, to describe a run without a network."""

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import (
    BertConfig,
    BloomConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen2Config,
    T5Config,
)

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def _gpt2(width: int, depth: int, heads: int) -> Callable[[], PreTrainedConfig]:
    return partial(GPT2Config, n_embd=width, n_layer=depth, n_head=heads)


def _opt(width: int, depth: int, heads: int) -> Callable[[], PreTrainedConfig]:
    return partial(
        OPTConfig, hidden_size=width, ffn_dim=4 * width, num_hidden_layers=depth, num_attention_heads=heads
    )  # fmt: skip


def _llama(
    config: Callable[..., PreTrainedConfig],
    vocab: int,
    width: int,
    mlp: int,
    depth: int,
    heads: tuple[int, int],
    positions: int,
) -> Callable[[], PreTrainedConfig]:
    """Return a Llama or Qwen configuration. heads: number of query heads and of key heads."""
    # Of these models only the first Llama, with 32000 tokens, does not tie its head to its embeddings.
    return partial(
        config, vocab_size=vocab, hidden_size=width, intermediate_size=mlp, num_hidden_layers=depth,
        num_attention_heads=heads[0], num_key_value_heads=heads[1], max_position_embeddings=positions,
        tie_word_embeddings=vocab > 32000,
    )  # fmt: skip


def _t5(**options: Any) -> Callable[[], PreTrainedConfig]:
    # Typed as any callable: mypy does not see tie_word_embeddings, which T5Config takes from its kwargs.
    config: Callable[..., PreTrainedConfig] = T5Config
    return partial(config, **options)


# Only what sets the number of parameters and the shapes; classes without options are at their defaults.
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "EleutherAI/gpt-j-6b": GPTJConfig,
    "EleutherAI/pythia-410m": partial(
        GPTNeoXConfig, vocab_size=50304, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16,
    ),
    "facebook/opt-2.7b": _opt(2560, 32, 32),
    "facebook/opt-6.7b": _opt(4096, 32, 32),
    "lmsys/vicuna-7b-v1.5": _llama(LlamaConfig, 32000, 4096, 11008, 32, (32, 32), 4096),
    "meta-llama/Llama-3.2-1B": _llama(LlamaConfig, 128256, 2048, 8192, 16, (32, 8), 131072),
    SMOLLM2: _llama(LlamaConfig, 49152, 576, 1536, 30, (9, 3), 8192),
    "Qwen/Qwen2.5-0.5B": _llama(Qwen2Config, 151936, 896, 4864, 24, (14, 2), 32768),
    "bigscience/bloom-560m": partial(BloomConfig, vocab_size=250880, hidden_size=1024, n_layer=24, n_head=16),
    "google/flan-t5-base": _t5(
        d_model=768, d_ff=2048, num_layers=12, num_heads=12, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    "bert-base-uncased": BertConfig,
    MINILM: partial(
        BertConfig, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
}  # fmt: skip
