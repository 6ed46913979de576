"""The time and the memory of a model: by operation, by module, and at the peak of the compute buffer.

    COMFYUI_PATH=... python -m tests.bench.profile [--model flux|t5|clip|vae] [--blocks N] [--file FILE.gguf] [--size N]
                                                   [--device D] [--weights auto|device|ram]
    COMFYUI_PATH=... python -m tests.bench.profile --listing [--model flux|t5|clip|vae] [--size N]

The second prints the program of the model at its real size, from shapes alone. FILE is a FLUX.1 file; without it the
weights are zeros, of `--blocks` blocks of each kind. Every operation is computed alone and waited for: what a backend
would fuse is not, and a submission's own cost is in each figure.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from native.client import shared
from native.engines.ggml import GgmlModel
from native.lower import LowerOptions, WeightType, lower
from native.placement import Placement
from native.program.ops import flops
from native.program.tensor import nbytes, row_text
from native.trace import trace
from native.weights import WeightSet, read_header
from native.weights.scales import under
from tests.weight_sets import weight_set

from . import hollow, liveness

WIDE = LowerOptions(activation_scale=64.0)
MULTIPLYING = ("mul_mat", "flash_attn", "conv_2d")
LARGEST = 12  # tensors at the peak to list


@dataclass
class Sum:
    """Over several operations."""

    count: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    nbytes: int = 0


def main() -> None:
    """Prints the times and the memory of a model, or its program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=hollow.MODELS, default="flux")
    parser.add_argument("--blocks", type=int, default=2, help="without FILE")
    parser.add_argument("--file", type=Path, help="a FLUX.1 GGUF file")
    parser.add_argument("--size", type=int, default=512, help="pixels")
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--weights", default="auto", help="their residency")
    parser.add_argument("--listing", action="store_true", help="print the program, measure nothing")
    options = parser.parse_args()
    real = hollow.MODELS[options.model]
    if options.listing:
        print(_listing(options.model, real, options.size))
        return
    module = real.build(None if options.file else options.blocks).eval()
    with tempfile.TemporaryDirectory() as folder:
        if options.file:
            header = read_header(str(options.file))
            weights = weight_set(header, "FLUX.1", under(header, ""), module.state_dict())
        else:
            weights = hollow.weight_set(Path(folder) / "hollow", options.model, module, real.matrices)
        print(f"{options.model}, {options.size} pixels, on {options.device}, weights {options.weights}")
        _profile(real, module, weights, Placement(options.device, options.weights), options.size)
        shared().close()


def _listing(name: str, real: hollow.RealModel, size: int) -> str:
    """The program of a model at its real size, a line for each tensor."""
    module = real.build(None).eval()
    types = {each: WeightType(kind, shape) for each, (shape, kind) in hollow.types(module, real.matrices).items()}
    traced = trace(name, module, real.function, real.inputs(size))
    return lower(traced, types, WIDE if real.wide else None).listing()


def _profile(real: hollow.RealModel, module: Any, weights: WeightSet, placement: Placement, size: int) -> None:
    remote = GgmlModel(module, weights, placement, WIDE if real.wide else None)
    inputs = real.inputs(size)
    lowered = remote.lowered("profile", real.function, inputs)
    arrays = lowered.host(inputs) | {name: inputs[name].numpy() for name in lowered.device_inputs}
    for _ in range(2):  # the first time reads the weights and compiles what the driver compiles
        seconds = remote.runner.profile(weights, placement, lowered.program, arrays)
    (held,) = remote.runner.memory().models
    print(f"{sum(seconds.values()):.3f} s in {len(seconds)} operations")
    _table("operation", lowered, seconds, {i: row.name for i, row in enumerate(lowered.program.tensors)})
    _table(
        "module", lowered, seconds, {i: re.sub(r"\.\d+\b", ".*", place) for i, place in enumerate(lowered.module_paths)}
    )
    peak, alive = liveness.at_peak(lowered.program)
    print(f"\ncompute buffer {held.compute:,} bytes; at its peak {peak:,} bytes are alive, the largest of them:")
    for index in alive[:LARGEST]:
        row = lowered.program.tensors[index]
        print(f"{nbytes(row):>14,}  {row_text(row)}  {lowered.module_paths[index]}")


def _table(title: str, lowered: Any, seconds: dict[int, float], groups: dict[int, str]) -> None:
    """Sums by group, the slowest first."""
    rows = lowered.program.tensors
    sums: dict[str, Sum] = defaultdict(Sum)
    for index, taken in seconds.items():
        each = sums[groups[index] or "(the model itself)"]
        each.count += 1
        each.seconds += taken
        each.nbytes += nbytes(rows[index])
        if rows[index].name in MULTIPLYING:
            each.flops += flops(rows[index], [rows[source] for source in rows[index].sources])
    print(f"\n{title:48} {'count':>6} {'seconds':>9} {'share':>6} {'GFLOP/s':>8} {'MB written':>11}")
    for name, each in _slowest(sums):
        rate = f"{each.flops / each.seconds / 1e9:8.1f}" if each.flops else " " * 8
        share = each.seconds / sum(seconds.values())
        print(f"{name:48} {each.count:>6} {each.seconds:>9.4f} {share:>6.1%} {rate} {each.nbytes / 1e6:>11,.1f}")


def _slowest(sums: dict[str, Sum]) -> Iterable[tuple[str, Sum]]:
    return sorted(sums.items(), key=lambda item: -item[1].seconds)


if __name__ == "__main__":
    main()
