"""Time of small matrix products beside other work, with OpenMP's threads spinning (its default) and sleeping.

python bench/threads.py [--busy 2] [--rounds 5]
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys

# 64 tokens through a layer of SmolLM2-135M's size, as often as a training step of a few images has such products.
PRODUCTS = """
import sys, time
if sys.argv[1] == "sleeping":
    from prefixvlm.distributed.threads import wait_without_spinning
    wait_without_spinning()
import torch
torch.set_num_threads(2)
a, b = torch.randn(64, 576), torch.randn(576, 1536)
for _ in range(20):
    (a @ b).relu_()
start = time.perf_counter()
for _ in range(800):
    (a @ b).relu_()
print(time.perf_counter() - start)
"""


def burn() -> None:
    while True:
        pass


def seconds(how: str) -> float:
    """Return the time of the products in a process of its own, because libgomp reads its settings once."""
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    command = [sys.executable, "-c", PRODUCTS, how]
    return float(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=2, help="processes that keep a core busy each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (%(default)s)")
    arguments = parser.parse_args()
    for busy in (0, arguments.busy):
        burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(busy)]
        for process in burners:
            process.start()
        rounds = [(seconds("spinning"), seconds("sleeping")) for _ in range(arguments.rounds)]
        for process in burners:
            process.kill()
        spinning, sleeping = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = sorted(one / other for one, other in rounds)
        print(
            f"beside {busy} busy processes: spinning {spinning:.2f} s, sleeping {sleeping:.2f} s; ratio: median "
            f"{statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
