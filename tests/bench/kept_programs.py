"""How long FLUX.1's program takes to make in a first process, and to read again in those after it.

    COMFYUI_PATH=... python -m tests.bench.kept_programs [--pixels N]

The model has its real size and a file of zeros; nothing is computed. Each is a process of its own, in which ComfyUI
and this pack are imported. Prints seconds of the processor, those of the clock in brackets, from the call of the model
until its program is there, also of a process without the store; and the ratio of the second process to the first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psutil
import torch

AGAIN = 3  # processes that read


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.here:
        _measure(options.pixels)
        return
    print(f"{psutil.cpu_count()} processors, other processes {psutil.cpu_percent(1.0):.0f} %")
    with TemporaryDirectory() as folder:
        first = _in_a_new_process(options.pixels, folder)
        again = [_in_a_new_process(options.pixels, folder) for _ in range(AGAIN)]
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    without = _in_a_new_process(options.pixels, "0")
    print(f"first {_text(first)}; again {', '.join(map(_text, again))}; not kept {_text(without)}; {size:,} bytes")
    print(f"the second process takes {again[0][0] / first[0]:.2f} of the first")


def _text(seconds: tuple[float, float]) -> str:
    return f"{seconds[0]:.2f} ({seconds[1]:.2f})"


def _in_a_new_process(pixels: int, folder: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "tests.bench.kept_programs", "--here", "--pixels", str(pixels)]
    environment = os.environ | {"GGML_PROGRAMS": folder, "GGML_PROBE": "0", "GGML_IDLE_MEASUREMENT": "0"}
    lines = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    used, clock = map(float, lines[-1].split())
    return used, clock


def _measure(pixels: int) -> None:
    from tests.pack import part

    diffusion, component = part("nodes.components.diffusion"), part("nodes.components.component")
    ggml, placement, weights = part("native.engines.ggml"), part("native.placement"), part("native.weights")
    from tests.bench import hollow

    real = hollow.MODELS["flux"]
    core = real.build(None).eval()

    def run(model: Any, key: Any, function: Any, inputs: Any, **_: Any) -> tuple[torch.Tensor, ...]:
        lowered = model.lowered(key, function, inputs)
        return tuple(torch.zeros(each.shape) for each in lowered.parts[-1].program.outputs)

    with TemporaryDirectory() as folder, torch.inference_mode():
        found = hollow.weight_set(Path(folder) / "flux", "FLUX.1", core, real.matrices)
        parameters = {
            name: weights.Parameter(name, each.type, each.shape, tuple(map(_run, each.runs)))
            for name, each in found.parameters.items()
        }
        held = weights.WeightSet(found.name, parameters, found.files)
        module = diffusion.DiffusionModule(core, held, placement.Placement("CPU"))
        given = real.inputs(pixels)
        with patch.object(ggml.GgmlModel, "run", run), patch.object(component.Component, "_make_ready", lambda _: None):
            used, clock = time.process_time(), time.monotonic()
            module(given["x"], given["timestep"], given["context"], given["y"], transformer_options={})
            print(time.process_time() - used, time.monotonic() - clock)


def _run(run: Any) -> Any:
    """A run of this test's import of the pack as one of ComfyUI's."""
    from tests.pack import part

    kind = part("native.weights.runs").Run
    return kind(*(getattr(run, name) for name in kind.__dataclass_fields__))


if __name__ == "__main__":
    main()
