"""Names of torch dtypes in configurations; auto is the fast dtype of the machine."""

import torch

NAMES = ("auto", "float32", "bfloat16", "float16")


def fast_dtype() -> torch.dtype:
    """Return bfloat16 on a GPU, or on a CPU with AVX512-BF16 or AMX, where it is fast; else float32."""
    if torch.cuda.is_available():
        # Before Ampere bfloat16 is emulated, and slower than float32.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if torch.backends.mps.is_available():
        return torch.bfloat16
    # The public torch.cpu.get_capabilities is not there yet in torch 2.11.
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def dtype_of(key: str, name: str) -> torch.dtype:
    """Return the dtype of a name. Raises ValueError, with the configuration key, if the name is not accepted."""
    if name not in NAMES:
        raise ValueError(f"{key} is {name!r}; accepted are {', '.join(NAMES[:-1])} and {NAMES[-1]}")
    return fast_dtype() if name == "auto" else getattr(torch, name)
