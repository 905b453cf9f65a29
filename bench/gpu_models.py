"""Random models for bench/gpu.py, and the floating-point operations that a training step of them needs."""

from dataclasses import dataclass
from pathlib import Path

import torch
from sides import Tokenizer
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.lm.causal import CausalLM
from prefixvlm.mapper.mlp import MLPMapper
from prefixvlm.model.prefix_lm import PrefixLM

LAYER = -2  # of the patches, as in LLaVA


@dataclass(frozen=True)
class Size:
    """A Llama. batch: images in a training step."""

    layers: int
    width: int
    mlp_width: int
    heads: int
    key_value_heads: int
    vocabulary: int
    batch: int
    tied: bool = False

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            num_hidden_layers=self.layers, hidden_size=self.width, intermediate_size=self.mlp_width,
            num_attention_heads=self.heads, num_key_value_heads=self.key_value_heads, vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip


SIZES = {
    "135M": Size(30, 576, 1536, 9, 3, 49152, 128, tied=True),  # SmolLM2-135M
    "1.3B": Size(24, 2048, 5504, 16, 16, 32000, 64),
    "7B": Size(32, 4096, 11008, 32, 32, 32000, 32),  # Llama 1 and 2, Vicuna
}
QUICK = {"tiny": Size(2, 64, 128, 4, 2, 512, 4)}


def random_llama(size: Size, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    with device:  # drawn there: a CPU would take minutes for 7 billion numbers
        return AutoModelForCausalLM.from_config(size.config(), dtype=dtype, attn_implementation="sdpa")


def random_encoder(quick: bool, device: torch.device) -> OpenClipEncoder:
    """Return ViT-L/14 with random weights, as patches: 256 features of width 1024."""
    name = "ViT-S-32-alt" if quick else "ViT-L-14"
    return OpenClipEncoder(name, "random", features="patch", layer=LAYER, dtype="auto").to(device)


def prefix_lm(encoder: OpenClipEncoder, lm: CausalLM, device: torch.device) -> PrefixLM:
    """Return encoder, LLaVA-1.5's projector and language model."""
    torch.manual_seed(1)
    mapper = MLPMapper(encoder.feature_width, encoder.num_features, lm.width, hidden_ratio=1.0, activation="gelu")
    return PrefixLM(encoder, mapper.to(device), lm)


def wrap(model: LlamaForCausalLM, **options: bool | str) -> CausalLM:
    return CausalLM(model, Tokenizer(model.config.vocab_size), **options)  # type: ignore[arg-type]


def save_lm(model: LlamaForCausalLM, folder: Path) -> None:
    """Write a folder for lm.name, with a tokenizer of bytes."""
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The EOS is token 0, as in the model's configuration.
    tokenizer = FastTokenizer(models.BPE(vocab={"<eos>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    fast.save_pretrained(folder)


def step_flops(size: Size, model: PrefixLM, lengths: Tensor, num_targets: int) -> float:
    """Return the operations that a step with a frozen encoder and language model needs, without any padding.

    lengths: int[S], tokens of each row, prefix included. A product of n x k and k x m matrices counts 2nkm. Gradients
    of frozen weights are not needed, so the backward pass of the language model costs as much as its forward pass, and
    its attention twice as much. Norms, activations and softmax are not counted, as is usual (PaLM, appendix B).
    """
    linear, attention = lm_flops(size, lengths)
    head = 2 * size.width * size.vocabulary * num_targets
    return (
        2 * linear + 3 * attention + 2 * head + encoder_flops(model, len(lengths)) + mapper_flops(model, len(lengths))
    )


def lm_flops(size: Size, lengths: Tensor) -> tuple[float, float]:
    """Return (products with weights, causal attention) of the blocks in a forward pass."""
    attention_weights = 2 * size.width**2 * (1 + size.key_value_heads / size.heads)
    weights = size.layers * (attention_weights + 3 * size.width * size.mlp_width)
    # Queries with keys, and probabilities with values: each token sees half of the row on average.
    attention = 2 * 2 * size.layers * size.width * float((lengths.double() ** 2).sum()) / 2
    return 2 * weights * float(lengths.sum()), attention


def encoder_flops(model: PrefixLM, num_images: int) -> float:
    blocks = model.encoder.visual.transformer.resblocks[: LAYER + 1]
    width, tokens = model.encoder.feature_width, model.encoder.num_features + 1
    weights = sum(p.numel() for block in blocks for p in block.parameters() if p.ndim == 2)
    convolution = model.encoder.visual.conv1.weight.numel() * model.encoder.num_features
    return num_images * (2 * weights * tokens + 4 * len(blocks) * width * tokens**2 + 2 * convolution)


def mapper_flops(model: PrefixLM, num_images: int) -> float:
    first, last = (layer for layer in model.mapper.mlp if isinstance(layer, nn.Linear))
    # Of the first layer the gradient of its input is not needed.
    return 2 * num_images * model.encoder.num_features * (2 * first.weight.numel() + 3 * last.weight.numel())
