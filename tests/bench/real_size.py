"""FLUX.1 at 12 B parameters on the CPU: what it costs to trace, to load and to sample a step.

    COMFYUI_PATH=... python -m tests.bench.real_size [--sizes 256 512] [--file FILE.gguf] [--device CPU] [--weights ram]

Writes a 6.7 GB file with random Q4_0 weights unless FILE is there, runs one euler step at each size through core's
sampler and this pack's MODEL, and prints seconds and bytes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from native.placement import AUTO, RESIDENCIES
from tests import pack

from . import real_size_files

pack.comfy()

import comfy.sample  # noqa: E402

MIB = 1 << 20


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="pixels")
    parser.add_argument("--file", type=Path, default=real_size_files.FLUX_FILE)
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--weights", choices=RESIDENCIES, default=AUTO, help="where they live")
    options = parser.parse_args()
    if not options.file.exists():
        start = time.perf_counter()
        real_size_files.write(options.file, real_size_files.flux())
        print(f"wrote {options.file}: {options.file.stat().st_size / 1e9:.2f} GB, {time.perf_counter() - start:.0f} s")
    weights_module = pack.part("native.weights")
    client = pack.part("native.client")
    runner = client.shared()
    runner.devices()
    print(f"runner without a model: {runner.memory().private / MIB:.0f} MiB private")
    header = weights_module.read_header(str(options.file))
    placement = pack.part("native.placement").Placement(options.device, options.weights)
    model = pack.part("nodes.loaders.diffusion").load_diffusion(header, placement)
    for size in options.sizes:
        _step(model, runner, size)


def _step(model: object, runner: object, size: int) -> None:
    """One step at `size` x `size` pixels, 256 text tokens."""
    conditioning = [[torch.randn(1, 256, 4096), {"pooled_output": torch.randn(1, 768)}]]
    latent = torch.zeros(1, 16, size // 8, size // 8)
    start = time.perf_counter()
    result = comfy.sample.sample(
        model, torch.randn(latent.shape), 1, 1.0, "euler", "simple", conditioning, conditioning, latent,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    assert result.isfinite().all()
    memory = runner.memory()  # type: ignore[attr-defined]
    print(f"{size}x{size}: {seconds:.1f} s for the first step, tracing and loading in it; {memory}")
    start = time.perf_counter()
    comfy.sample.sample(
        model, torch.randn(latent.shape), 1, 1.0, "euler", "simple", conditioning, conditioning, latent,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    print(f"{size}x{size}: {time.perf_counter() - start:.1f} s for the second")


if __name__ == "__main__":
    main()
