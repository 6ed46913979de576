"""A linear layer of FLUX.1's size on the CPU, with its weight mapped and repacked.

    python -m tests.bench.repack [--types Q4_0 Q4_K] [--threads N] [--rounds N]

Writes a file with a random weight [12288, 3072] of each type, multiplies it with 512 tokens in one runner, mapped and
repacked by turns, and prints the seconds of each, the median of their ratio, and the conditions. The seconds hold the
way of x and the product [512, 12288] through shared memory too.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from native.client import Runner
from native.ggml_types import tensor_bytes
from native.placement import DEVICE, RAM, Placement
from native.runner.cpu_cores import physical_cores
from native.weights.weight_set import WeightSet
from tests.runner_toys import linear, weight_file

ROWS, COLUMNS, TOKENS = 12288, 3072, 512
PLACEMENTS = {False: Placement("CPU", RAM), True: Placement("CPU", DEVICE)}  # by whether they repack
FLOPS = 2.0 * ROWS * COLUMNS * TOKENS


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", nargs="+", default=["Q4_0", "Q4_K", "Q8_0"])
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runner = Runner(("--threads", str(options.threads)))
    print(
        f"[{TOKENS}, {COLUMNS}] times [{ROWS}, {COLUMNS}], {options.threads} threads, {options.rounds} rounds; "
        f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before"
    )
    runner.memory()  # starts it
    with tempfile.TemporaryDirectory() as folder:
        for type_ in options.types:
            _measure(runner, _file(Path(folder) / type_, type_), type_, options.rounds)
    print(f"load {os.getloadavg()[0]:.1f} after")
    runner.close()


def _file(path: Path, type_: str) -> WeightSet:
    """A weight of random blocks whose scales are small numbers; what they stand for does not matter here."""
    blocks = np.random.default_rng(1).integers(0, 32, tensor_bytes(type_, (ROWS, COLUMNS)), np.uint8)
    return weight_file(path, {"w": (type_, (ROWS, COLUMNS), blocks.tobytes())})


def _measure(runner: Runner, weights: WeightSet, type_: str, rounds: int) -> None:
    start = time.perf_counter()
    report = runner.load(weights, PLACEMENTS[True])
    seconds = time.perf_counter() - start
    if not report.repacked:
        print(f"{type_}: this processor has no repacked layout for it")
        return
    program, x = linear(ROWS, COLUMNS, TOKENS, type_), np.random.default_rng(2).standard_normal((TOKENS, COLUMNS), "f4")
    taken: dict[bool, list[float]] = {False: [], True: []}
    for repacked in taken:  # the first run reads the pages and builds the graph
        runner.run(weights, PLACEMENTS[repacked], program, {"x": x})
    for _ in range(rounds):
        for repacked, times in taken.items():
            start = time.perf_counter()
            runner.run(weights, PLACEMENTS[repacked], program, {"x": x})
            times.append(time.perf_counter() - start)
    ratio = statistics.median(plain / fast for plain, fast in zip(taken[False], taken[True], strict=True))
    text = ", ".join(
        f"{name} {min(times):.3f} s at best ({FLOPS / min(times) / 1e9:.0f} GFLOP/s)"
        for name, times in (("mapped", taken[False]), ("repacked", taken[True]))
    )
    print(f"{type_}: {text}; mapped / repacked {ratio:.2f}; repacking {report.repacked:,} bytes: {seconds:.2f} s")
    for repacked in taken:
        runner.unload(weights.digest, PLACEMENTS[repacked])


if __name__ == "__main__":
    main()
