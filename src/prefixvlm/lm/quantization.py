"""The name of a quantisation goes in; what transformers' from_pretrained needs for it comes out."""

import logging
import os
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

ACCEPTED = ("int8", "nf4")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on some CPUs it misses a kernel, also where peft imports it


def options_of(quantization: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """int8: LLM.int8 (Dettmers et al. 2022); nf4: 4 bits, as in QLoRA (Dettmers et al. 2023), computed in dtype.

    Raises ValueError for another name, or where a package is missing.
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
    if quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    # Where it is quantised: on this process's GPU, which is fast at it.
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": device}}


def keep_4bit_frozen(model: nn.Module) -> None:
    """Undo what bitsandbytes does to 4-bit weights on CPUs with AVX512-BF16.

    When one is first read without gradients it is repacked where it lies: it would not stay bit-identical, and no
    gradient would pass it any more. Raises ValueError where a matrix would be dequantised wrong.
    """
    for name, module in model.named_modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            if not torch.cuda.is_available() and module.in_features % 64:
                raise ValueError(
                    "on this CPU bitsandbytes reads 4-bit matrices wrong whose columns are no multiple of 64, as "
                    f"{name} with {module.in_features}; set lm.quantization=int8"
                )
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (mypy takes it for a submodule)
