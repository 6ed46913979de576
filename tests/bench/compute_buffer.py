"""Compute buffers and operations of FLUX.1, T5-XXL, CLIP-L and the VAE's decoder at their real size.

    COMFYUI_PATH=... python -m tests.bench.compute_buffer [--models flux t5 clip vae] [--sizes 256 512 768 1024]
                                                          [--device D] [--chunk N]

Nothing is loaded, allocated or computed. Prints bytes, the operations that compute, and the largest tensor made.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace

from native.client import RunnerError, shared
from native.lower import LowerOptions, WeightType, lower
from native.program.ops import is_view
from native.trace import trace

from . import hollow


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=hollow.MODELS, default=list(hollow.MODELS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 768, 1024], help="pixels")
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--chunk", type=int, default=LowerOptions().chunk_tokens, help="LowerOptions.chunk_tokens")
    options = parser.parse_args()
    lowering = LowerOptions(chunk_tokens=options.chunk)
    for name in options.models:
        for size in options.sizes if name in ("flux", "vae") else options.sizes[:1]:
            print(_line(name, size, options.device, lowering), flush=True)
    shared().close()


def _line(name: str, size: int, device: str, lowering: LowerOptions) -> str:
    real = hollow.MODELS[name]
    module = real.build(None).eval()
    if real.wide:
        lowering = replace(lowering, activation_scale=64.0)
    types = {each: WeightType(stored, shape) for each, (shape, stored) in hollow.types(module, real.matrices).items()}
    program = lower(trace(name, module, real.function, real.inputs(size)), types, lowering).program
    counts = Counter(row.name for row in program.tensors if row.kind == "op" and not is_view(row))
    text = f"{name:5} {size:5} on {device}: {sum(counts.values()):5} operations, "
    try:
        taken = shared().estimate(name, device, program)
    except RunnerError as error:
        return f"{text}{error}"
    largest = f"largest tensor {taken.largest_tensor / 1e6:7.1f} MB"
    return f"{text}{largest}, compute buffer {taken.compute / 1e6:7.1f} MB, scratch {taken.work / 1e6:6.1f} MB"


if __name__ == "__main__":
    main()
