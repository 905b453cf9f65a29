"""Training steps and texts beside ClipCap's own repository and beside transformers' generate.

`python bench/beside.py [--quick] [--only steps|texts|generate]`. With CLIPCAP=FOLDER, a folder of ClipCap's repository
(github.com/rmokady/CLIP_prefix_caption), steps and the searches of one image are compared with its code; batches of
texts are compared with `generate` of transformers, which has a cache too. All sides have the same random weights (a
GPT-2-small-size language model and ClipCap's mappers, float32) and random features; their losses and texts are compared
first. A ratio is the median over interleaved rounds, so that what else the machine does slows both sides.
"""

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from beside_rows import generate_rows, step_rows, text_rows
from clipcap_repository import ClipCapRepository
from measure import Clock, machine
from sides import QUICK, Sizes
from tqdm import tqdm

from prefixvlm.precision import fast_dtype

PARTS = ("steps", "texts", "generate")


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':28}{'other s':>10}{'ours s':>9}{'ratio':>7}{'goal':>6}{'bare products':>15}{'GFLOP/s':>9}"]
    for name, row in results.items():
        goal = f"{row['goal']:>6}" if row["goal"] else f"{'':6}"
        lines.append(
            f"{name:28}{row['other_s']:>10.3f}{row['ours_s']:>9.3f}{row['ratio']:>7.2f}{goal}"
            f"{row['share_of_bare_products']:>14.0%} {row['gflops_per_s_bare']:>8.0f}"
        )
    return "\n".join(lines)


def notes_of(sizes: Sizes, has_repository: bool) -> list[str]:
    notes = [
        f"Each ratio: the median of those of {sizes.rounds} interleaved rounds; float32; {sizes.images} images, or 1."
    ]
    notes += [
        "bare products: the time of matrix products of the same shapes alone, as a share of ours; GFLOP/s: their rate."
    ]
    notes += [f"ClipCap's searches are timed on {sizes.baseline_images} images and scaled."] if has_repository else []
    if not has_repository:
        notes.append("Without CLIPCAP=FOLDER, ClipCap's repository, there are no rows beside its code.")
    if fast_dtype() != torch.bfloat16:
        notes.append("bf16 was not timed: this CPU has neither AVX512-BF16 nor AMX.")
    return notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small language model and 2 rounds: does it run at all?")
    parser.add_argument("--only", choices=PARTS, help="one part of the table")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds ({Sizes.rounds}; {QUICK.rounds} with --quick)")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder of beside.json (%(default)s)")
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes()
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; set it to 1 or more")
    sizes = replace(sizes, rounds=args.rounds or sizes.rounds)
    parts, folder = [args.only] if args.only else list(PARTS), os.environ.get("CLIPCAP")
    if not folder and args.only in PARTS[:2]:
        parser.error(f"--only {args.only} compares with ClipCap's code; set CLIPCAP to a folder of its repository")
    try:
        repository = ClipCapRepository(Path(folder)) if folder else None
    except ValueError as error:
        parser.error(str(error))
    rows = step_rows(repository, sizes) if repository and "steps" in parts else []
    rows += text_rows(repository, sizes) if repository and "texts" in parts else []
    rows += generate_rows(sizes) if "generate" in parts else []
    with tqdm(total=sizes.rounds * sum(2 + len(row.gemms) for row in rows), mininterval=1) as bar:
        clock = Clock(bar)
        for _ in range(sizes.rounds):
            for row in rows:
                row.round(clock)
    results = {row.name: row.result(clock) for row in rows}
    notes = notes_of(sizes, repository is not None)
    args.out.mkdir(parents=True, exist_ok=True)
    summary = {"machine": machine(), "sizes": asdict(sizes), "rows": results, "notes": notes}
    (args.out / "beside.json").write_text(json.dumps(summary, indent=1) + "\n")
    print("\n".join([table(results), *notes, f"Summary: {args.out / 'beside.json'}"]))


if __name__ == "__main__":
    main()
