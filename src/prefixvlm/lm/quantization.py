"""Quantized weights by bitsandbytes: options of from_pretrained, and a guard for frozen 4-bit weights on CPUs."""

import logging
import os
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

ACCEPTED = ("int8", "nf4")
# bitsandbytes warns of a missing CPU kernel at import, also where only peft imports it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quantization_options(quantization: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """Return the keyword arguments of `from_pretrained` that quantize the matrices of the blocks.

    quantization: int8 for LLM.int8 (Dettmers et al. 2022); nf4 for 4 bits as in QLoRA (Dettmers et al. 2023), with
    products in dtype. Raises ValueError for another name or if a package is missing.
    """
    if quantization is None:
        return {}
    if quantization not in ACCEPTED:
        raise ValueError(f"lm.quantization is {quantization!r}; accepted are null, {' and '.join(ACCEPTED)}")
    try:
        import accelerate  # noqa: F401
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"lm.quantization={quantization} needs the package {error.name}; `pip install 'prefixvlm[quantization]'` "
            "adds it, or set lm.quantization=null"
        ) from error
    # transformers quantizes the model alone; Lightning's BitsandbytesPrecision would convert the mapper's layers, too.
    if quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    # Weights are quantized while they load, which is fast on a GPU. Each process of a run must name its own.
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": device}}


def keep_4bit_frozen(model: nn.Module) -> None:
    """Switch off bitsandbytes' repacking of 4-bit weights on CPUs with AVX512-BF16.

    Raises ValueError if a matrix would be dequantized wrong.
    """
    # The first forward pass without gradients repacks a weight in place: it would not stay bit-identical, as a frozen
    # weight must, and gradients would no longer flow through it.
    for name, module in model.named_modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            # 4-bit quantization works in blocks of 64 values; the CPU kernel misreads rows that end inside a block.
            if not torch.cuda.is_available() and module.in_features % 64:
                raise ValueError(
                    "on this CPU bitsandbytes needs 4-bit matrices with a multiple of 64 columns, and "
                    f"{name} has {module.in_features}; set lm.quantization=int8"
                )
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (mypy takes it for a submodule)
