"""Measures FLUX.1's overhead at 12 B parameters and 1024x1024: tracing, lowering, sending and receiving.

    COMFYUI_PATH=... python -m tests.bench.overhead [--file FILE.gguf]

FILE is what tests.bench.real_size wrote; only its header is read. Prints seconds and milliseconds on the CPU device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
import torch

from tests import pack
from tests.runner_toys import NO_WEIGHTS, Table

from . import real_size_files

pack.comfy()

SIZE = 1024  # pixels
RUNS = 20


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=real_size_files.FLUX_FILE)
    _lowering(parser.parse_args().file)
    _transfer()


def _inputs() -> dict[str, torch.Tensor]:
    """A step's tensors, by the names of core's arguments."""
    return {
        "x": torch.randn(1, 16, SIZE // 8, SIZE // 8),
        "timestep": torch.ones(1),
        "context": torch.randn(1, 256, 4096),
        "y": torch.randn(1, 768),
    }


def _lowering(file: Path) -> None:
    weights = pack.part("native.weights")
    model = pack.part("nodes.loaders.diffusion").load_diffusion(weights.read_header(str(file)), "CPU")
    module = model.model.diffusion_model

    def lower_only(key: Hashable, function: Callable, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor]:
        module.engine_model.lowered(key, function, tensors)
        return (_inputs()["x"],)

    module.compute = lower_only
    for what in ("trace and lower, the first time", "the same shape again"):
        inputs = _inputs()
        start = time.perf_counter()
        module(**inputs)
        print(f"{what}: {(time.perf_counter() - start) * 1e3:.0f} ms")


def _transfer() -> None:
    """Sends a step's tensors and receives one like x, which the runner only copies."""
    inputs = {name: tensor.numpy() for name, tensor in _inputs().items()}
    table = Table()
    rows = {name: table.input(name, array.shape) for name, array in inputs.items()}
    program = table.program(table.op("cont", inputs["x"].shape, rows["x"]))
    runner = pack.part("native.client").shared()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        (received,) = runner.run(NO_WEIGHTS, "CPU", program, inputs)
        seconds.append(time.perf_counter() - start)
        assert np.array_equal(received, inputs["x"])
    sent = sum(array.nbytes for array in inputs.values())
    print(
        f"sending {sent / 1e6:.1f} MB and receiving {inputs['x'].nbytes / 1e6:.1f} MB: "
        f"median {statistics.median(seconds) * 1e3:.1f} ms, slowest but the first {max(seconds[1:]) * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
