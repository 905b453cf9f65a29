"""Training steps and captioning on a GPU, beside plain transformers; all weights are random, nothing is downloaded.

`bench/gpu.sh` runs this with the tests that need a GPU. Frozen language models of three sizes read the 256 patches of a
frozen ViT-L/14 through LLaVA-1.5's projector, which is trained. Writes gpu.json and prints a table. MFU is the share of
the GPU's peak that the needed operations take; see gpu_models.step_flops for what is needed.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_models import QUICK, SIZES, Size, prefix_lm, random_encoder, random_llama, save_lm, wrap
from gpu_steps import NUM_BEAMS, Captions, Steps, product_tflops, reset_peak
from gpu_training import train_all
from measure import machine

from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.lm.causal import CausalLM
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.precision import fast_dtype

PEAKS = {"H100": 989.4, "H200": 989.4, "A100": 312.0}  # dense bf16 TFLOP/s of the SXM parts, by their data sheets
QUANTIZED = "7B"  # the size that int8 and nf4 are for
CHECKPOINTING_BATCH = 4  # times the batch of the other steps, in about the same memory


def bench_size(name: str, size: Size, encoder: OpenClipEncoder, device: torch.device, quick: bool) -> dict[str, Any]:
    """Measure one language model: steps, plain and ours, each eager and compiled; captions; variants."""
    num_steps = 2 if quick else 8
    with tempfile.TemporaryDirectory() as folder:
        model = random_llama(size, device, fast_dtype())
        if name == QUANTIZED or quick:
            save_lm(model, Path(folder))
        found = bench_eager(size, prefix_lm(encoder, wrap(model), device), num_steps, 1 if quick else 3)
        # Compiling and checkpointing change the blocks in place. The plain loop has the same blocks.
        backend = "eager" if quick else True  # --quick tries the code, and inductor takes a minute
        found |= bench_compiled(size, prefix_lm(encoder, wrap(model, compile=backend), device), num_steps)
        del model
        reset_peak(device)
        larger = replace(size, batch=size.batch * CHECKPOINTING_BATCH)
        lm = wrap(random_llama(size, device, fast_dtype()), activation_checkpointing=True)
        checkpointing = Steps(prefix_lm(encoder, lm, device), larger)
        found[f"ours, activation checkpointing, batch of {larger.batch}"] = checkpointing.measure(num_steps)
        del lm, checkpointing
        for quantization in ("int8", "nf4") if name == QUANTIZED or quick else ():
            reset_peak(device)
            found[f"ours, {quantization}"] = bench_quantized(size, encoder, folder, quantization, device, num_steps)
    return found


def bench_eager(size: Size, model: PrefixLM, num_steps: int, rounds: int) -> dict[str, Any]:
    ours, plain = Steps(model, size), Steps(model, size, plain=True)
    batch = ours.batch(0)
    with torch.no_grad():
        found: dict[str, Any] = {"loss_difference": abs(float(ours.loss(batch) - plain.loss(batch)))}
    # Before the steps, which teach the mapper to end each caption at once.
    captions = Captions(ours)
    found |= {"greedy": captions.measure(1, rounds), "beam5": captions.measure(NUM_BEAMS, rounds)}
    return found | {"plain": plain.measure(num_steps), "ours": ours.measure(num_steps)}


def bench_compiled(size: Size, model: PrefixLM, num_steps: int) -> dict[str, Any]:
    ours, plain = Steps(model, size), Steps(model, size, plain=True)
    torch._dynamo.reset()  # of the language model before: there is a limit to the variants of a function
    return {"ours, compiled": ours.measure(num_steps), "plain, compiled": plain.measure(num_steps)}


def bench_quantized(
    size: Size, encoder: OpenClipEncoder, folder: str, quantization: str, device: torch.device, num_steps: int
) -> dict[str, Any]:
    """Measure int8 or nf4, loaded from a folder as lm.quantization loads them."""
    try:
        lm = CausalLM.from_pretrained(folder, quantization=quantization)
    except ValueError as error:  # bitsandbytes is missing
        return {"skipped": str(error)}
    return Steps(prefix_lm(encoder, lm, device), size).measure(num_steps)


def bench(device: torch.device, quick: bool, names: list[str], out: Path) -> dict[str, Any]:
    encoder = random_encoder(quick, device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    product = product_tflops(device, fast_dtype(), 512 if quick else 8192)
    summary: dict[str, Any] = {"machine": machine(), "gpu": gpu, "product_tflops": product, "quick": quick}
    summary["peak_tflops"] = next((peak for name, peak in PEAKS.items() if name in gpu), product)
    print(f"{gpu}: a bare product reaches {product:.0f} TFLOP/s, peak {summary['peak_tflops']:.0f}", flush=True)
    for name, size in (QUICK if quick else SIZES).items():
        if names and name not in names:
            continue
        start = time.perf_counter()
        summary[name] = bench_size(name, size, encoder, device, quick)
        reset_peak(device)
        print(table(name, summary), f"({time.perf_counter() - start:.0f} s)", sep="\n", flush=True)
        write(summary, out)
    return summary


def table(name: str, summary: dict[str, Any]) -> str:
    lines = [f"{name:46}{'s/step':>8}{'images/s':>10}{'tokens/s':>10}{'MFU':>7}{'GiB':>7}"]
    for side, found in summary[name].items():
        if not isinstance(found, dict) or "skipped" in found:
            lines.append(f"  {side}: {found}")
        elif "step_seconds" in found:
            mfu = found["tflops"] / summary["peak_tflops"]
            lines.append(
                f"  {side:44}{found['step_seconds']:>8.3f}{found['images_per_second']:>10.1f}"
                f"{found['tokens_per_second']:>10.0f}{mfu:>7.1%}{found['memory_gib']:>7.1f}"
            )
        else:
            lines.append(
                f"  {side}: {found['seconds']:.3f} s, {found['tokens_per_second']:.0f} tokens/s; transformers "
                f"{found['plain_seconds']:.3f} s, {found['ratio']:.2f} times; {found['same_captions']:.0%} the same"
            )
    return "\n".join(lines)


def write(summary: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(summary, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, also on a CPU: does it run at all?")
    parser.add_argument("--sizes", nargs="*", default=[], metavar="NAME", help=f"some of {', '.join(SIZES)}")
    parser.add_argument("--no-training", action="store_true", help="leave out the runs of train.py")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder of gpu.json (%(default)s)")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.quick:
        parser.error("there is no CUDA device; --quick runs with tiny models on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    summary = bench(device, args.quick, args.sizes, args.out)
    if not args.no_training:
        summary["training"] = train_all(device, args.quick)
        write(summary, args.out)
    print(f"Summary: {args.out / 'gpu.json'}")


if __name__ == "__main__":
    main()
