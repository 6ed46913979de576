"""Traces and lowers diffusion models at their real size: seconds, memory, operations, compute buffers.

    COMFYUI_PATH=... python -m tests.bench.lowering [NAME ...]
    COMFYUI_PATH=... python -m tests.bench.lowering --listing NAME

Each in a process of its own, from shapes alone: no weights, nothing is computed. Seconds are the processor's, the
clock's in brackets. MiB: what the process has grown by. A program is described twice: as it runs, and as it is when
nothing is computed in parts (native/lower/passes). The second command prints the latter.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from native.client import shared
from native.lower import Lowered, LowerOptions, lower
from native.program import Program
from native.program.ops import is_view
from native.program.tensor import nbytes, row_text
from native.trace import Trace, trace
from tests.parity.families.case import product_attention

from .real_models import MODELS, types

MIB = 1 << 20
IN_ONE_PIECE = LowerOptions(chunk_threshold_bytes=1 << 60)
DEVICES = ("CPU",)


def main() -> None:
    """Prints what was measured of the models named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--listing", action="store_true", help="print the program")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    for name in options.names or MODELS:
        if options.listing:
            module = MODELS[name].build().eval()
            print(lower(traced(name, module), types(module), IN_ONE_PIECE).listing())
        elif options.here:
            _measure(name)
        else:
            subprocess.run([sys.executable, "-m", "tests.bench.lowering", "--here", name], check=True)


def traced(name: str, module: torch.nn.Module) -> Trace:
    """The trace of one of MODELS, with the product's attention."""
    with product_attention():
        return trace(name, module, MODELS[name].function, MODELS[name].inputs())


@dataclass(frozen=True)
class _Moment:
    """Seconds of the processor and of the clock; resident bytes, and the most so far."""

    cpu: float
    clock: float
    resident: int
    most: int


def _now() -> _Moment:
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    kibibytes = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
    return _Moment(time.process_time(), time.monotonic(), kibibytes["VmRSS:"] << 10, kibibytes["VmHWM:"] << 10)


def _measure(name: str) -> None:
    module = MODELS[name].build().eval()
    weights = types(module)
    moments = [_now()]
    gc.disable()  # as GgmlModel.lowered does meanwhile
    trace_ = traced(name, module)
    moments.append(_now())
    lowered = lower(trace_, weights)
    moments.append(_now())
    size = sum(len(part.program.to_bytes()) for part in lowered.parts)
    moments.append(_now())
    gc.enable()
    print(f"{name}, {MODELS[name].size}: {len(trace_.steps)} steps, a program of {size / MIB:.1f} MiB")
    spent = zip(("trace", "lower", "serialise"), moments, moments[1:], strict=False)
    print("  s:", ", ".join(f"{what} {b.cpu - a.cpu:.2f} ({b.clock - a.clock:.2f})" for what, a, b in spent))
    first, last = moments[0], moments[-1]
    print(f"  MiB: {(last.most - first.resident) / MIB:.0f} at most, {(last.resident - first.resident) / MIB:.0f} then")
    _describe("in parts", lowered)
    _describe("in one piece", lower(trace_, weights, IN_ONE_PIECE))


def _describe(what: str, lowered: Lowered) -> None:
    """Counts operations that compute, all rows with views, and copies, and asks for the compute buffer."""
    rows = [row for part in lowered.parts for row in part.program.tensors]
    made = [row for row in rows if row.kind == "op" and not is_view(row)]
    counts = Counter(row.name for row in made)
    nodes = sum(row.kind == "op" for row in rows)
    islands = sum(len(part.islands) for part in lowered.parts)
    print(f"  {what}: {len(made)} operations, {nodes} with views, {counts['cont']} copies, {islands} islands")
    print("   ", ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    print("    largest:", row_text(max(made, key=nbytes)))
    for device in DEVICES:
        print(f"    {device}: a compute buffer of {max(_compute(part.program, device) for part in lowered.parts)} MiB")


def _compute(program: Program, device: str) -> int:
    estimate = shared().estimate("a model", device, program)
    return round(estimate.compute / MIB)


if __name__ == "__main__":
    main()
