"""Memory and programs of ComfyUI's VAEs of video and sound at their real size.

    COMFYUI_PATH=... python -m tests.bench.video_vae [--models wan2.1 ltx0.9 ace ...] [--directions decode encode]
                                                     [--frames 81] [--size 832 480] [--seconds 60] [--device D]

Nothing is loaded, allocated or computed. Prints seconds to trace, lower and dry run, operations that compute, bytes of
the program and of its constants, the largest tensor, the compute buffer, and what this process's memory grew by.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from typing import Any

import torch

from native.client import Estimate, Runner, RunnerError, shared
from native.ggml_types import tensor_bytes
from native.lower import Lowered, LowerOptions, WeightType, lower
from native.program.ops import is_view
from native.trace import trace

from . import hollow_vaes
from .hollow import attention_of_the_product, types

SAMPLE_RATE = 44100


@dataclass(frozen=True)
class Measured:
    """Of one program, or of all the programs between which there are islands."""

    shape: str
    trace_s: float
    lower_s: float
    dry_run_s: float
    operations: int
    program_mb: float  # with its constants
    constants_mb: float
    largest_mb: float  # of the tensors that operations make
    buffer_mb: float
    process_mb: float
    islands: int
    error: str = ""


def main() -> None:
    """Measures and prints, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=hollow_vaes.VAES, default=list(hollow_vaes.VAES))
    parser.add_argument("--directions", nargs="+", choices=("decode", "encode"), default=["decode", "encode"])
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--size", type=int, nargs=2, default=[832, 480], help="width and height in pixels")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--device", default="CPU")
    options = parser.parse_args()
    print(f"{'':20}{' '.join(f'{field.name:>12}' for field in fields(Measured))}")
    for name in options.models:
        for direction in options.directions:
            with ProcessPoolExecutor(1, get_context("fork")) as apart:
                print(
                    f"{name + ' ' + direction:20}{_line(apart.submit(_of, name, direction, options).result())}",
                    flush=True,
                )


def _line(measured: Measured) -> str:
    values = [getattr(measured, field.name) for field in fields(measured)]
    return " ".join(f"{value:12.1f}" if isinstance(value, float) else f"{value!s:>12}" for value in values)


def _of(name: str, direction: str, options: argparse.Namespace) -> Measured:
    vae = hollow_vaes.vae(name)
    latents = latent_shape(vae, options.frames, options.size[1], options.size[0], options.seconds)
    shape = latents if direction == "decode" else pixel_shape(vae, latents)
    try:
        return measure(vae, direction, shape, options.device)
    finally:
        shared().close()


def latent_shape(vae: Any, frames: int, height: int, width: int, seconds: float) -> tuple[int, ...]:
    """The latents of a video of that size, or of so much sound."""
    if vae.latent_dim == 3:
        time_ratio, rows, columns = vae.downscale_ratio
        return 1, vae.latent_channels, time_ratio(frames), height // rows, width // columns
    length = round(seconds * SAMPLE_RATE / vae.downscale_ratio)
    return 1, vae.latent_channels, *([vae.extra_1d_channel] if vae.extra_1d_channel else []), length


def pixel_shape(vae: Any, latents: Sequence[int]) -> tuple[int, ...]:
    """The shape that latents of that shape are decoded to."""
    if vae.latent_dim == 3:
        time_ratio, rows, columns = vae.upscale_ratio
        return 1, vae.output_channels, time_ratio(latents[2]), latents[3] * rows, latents[4] * columns
    return 1, vae.output_channels, latents[-1] * vae.upscale_ratio


def lowered(vae: Any, direction: str, shape: Sequence[int]) -> tuple[Lowered, float, float]:
    """The program of a direction for an input of that shape, and the seconds that tracing and lowering took."""
    module = attention_of_the_product(vae.first_stage_model)
    stored = types(module, "F32")
    began = time.perf_counter()
    x = torch.zeros(1).expand(tuple(shape))
    traced = trace("vae", module, lambda m, t: getattr(m, direction)(t["x"]), {"x": x}, stored)
    between = time.perf_counter()
    kinds = {name: WeightType(kind, size) for name, (size, kind) in stored.items()}
    program = lower(traced, kinds, LowerOptions(activation_scale=64.0, kv_type="F32"))
    return program, between - began, time.perf_counter() - between


def measure(vae: Any, direction: str, shape: Sequence[int], device: str, runner: Runner | None = None) -> Measured:
    """Trace, lower and dry run one direction."""
    before = _memory()
    program, trace_s, lower_s = lowered(vae, direction, shape)
    began, error, taken = time.perf_counter(), "", list[Estimate]()
    try:
        taken = [(runner or shared()).estimate("vae", device, part.program) for part in program.parts]
    except RunnerError as reason:
        error = str(reason)
    dry_run_s = time.perf_counter() - began
    rows = [row for part in program.parts for row in part.program.tensors if row.kind == "op" and not is_view(row)]
    constants = [array.nbytes for part in program.parts for array in part.program.constants.values()]
    return Measured(
        "x".join(map(str, shape)), trace_s, lower_s, dry_run_s, len(rows),
        sum(len(part.program.to_bytes()) for part in program.parts) / 1e6, sum(constants) / 1e6,
        max(tensor_bytes(row.type, row.ne) for row in rows) / 1e6,
        max((each.compute for each in taken), default=0) / 1e6, (_memory() - before) / 1e6,
        sum(len(part.islands) for part in program.parts), error,
    )  # fmt: skip


def _memory() -> int:
    """The most bytes of RAM that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    main()
