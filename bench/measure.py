"""Measurements: seconds, peak memory, and the bare matrix products of a training step."""

import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from prefixvlm.batch import Batch
from prefixvlm.model.prefix_lm import PrefixLM


class Clock:
    """Seconds of each job, round by round."""

    def __init__(self, bar: tqdm) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.bar = bar

    def time(self, name: str, function: Callable[[], Any], scale: float = 1.0) -> None:
        self.bar.set_postfix_str(name)
        start = time.perf_counter()
        function()
        self.seconds.setdefault(name, []).append((time.perf_counter() - start) * scale)
        self.bar.update()

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


Gemm = tuple[bool, int, int, int, bool, bool]  # is a Conv1D, rows, in, out, gradient of input, of weight


def gemms_of(model: PrefixLM, batch: Batch) -> Counter[Gemm]:
    """Return the matrix products with a weight in one step, counted by shape."""
    model(batch)  # the first call also probes whether texts may share a row (lm.causal.keeps_texts_apart)
    return gemms_during(model, lambda: model(batch))


def gemms_during(model: nn.Module, function: Callable[[], Any]) -> Counter[Gemm]:
    """Return the matrix products with a weight of the model in a call of the function, counted by shape."""
    gemms: Counter[Gemm] = Counter()

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = args[0]
        rows = inputs.shape[:-1].numel()
        gemms[
            isinstance(module, Conv1D), rows, inputs.shape[-1], output.shape[-1], inputs.requires_grad,
            module.weight.requires_grad and torch.is_grad_enabled(),
        ] += 1  # fmt: skip

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear | Conv1D)]
    function()
    for hook in hooks:
        hook.remove()
    return gemms


def flops_of(gemms: Counter[Gemm]) -> float:
    """Return the floating-point operations of matrix products with the gradients that they are computed for."""
    products = {gemm: 1 + gemm[4] + gemm[5] for gemm in gemms}
    return float(sum(2 * gemm[1] * gemm[2] * gemm[3] * products[gemm] * count for gemm, count in gemms.items()))


def time_gemm(gemm: Gemm) -> Callable[[], None]:
    """Return a function that computes the products of the forward pass and of the gradients."""
    is_conv, rows, width_in, width_out, gradient, weight_gradient = gemm
    inputs, outputs = torch.randn(rows, width_in), torch.randn(rows, width_out)
    # nn.Linear stores its weight transposed, GPT-2's Conv1D does not; the layout changes the speed of the product.
    weight = torch.randn(width_in, width_out) if is_conv else torch.randn(width_out, width_in).t()

    def run() -> None:
        inputs @ weight
        if gradient:
            outputs @ weight.t()
        if weight_gradient:
            outputs.t() @ inputs

    return run


def extra_memory(function: Callable[[], Any]) -> int:
    """Return the peak memory of a function in bytes, above that of the process before it. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which loading has set
    before = _status_bytes("VmHWM")
    function()
    return _status_bytes("VmHWM") - before


def _status_bytes(key: str) -> int:
    # Not getrusage's ru_maxrss: in a child process it starts with the peak of the parent.
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{key}:")[1].split()[0])


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_before": os.getloadavg()[0], "python": platform.python_version(),
    }  # fmt: skip
