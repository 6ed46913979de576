"""Diffusion models at their real size from file to plan, and one step of them on the CPU.

    COMFYUI_PATH=... python -m tests.bench.from_file [NAME ...]             planned from the header of a hollow file
    COMFYUI_PATH=... python -m tests.bench.from_file --step FOLDER NAME     and computed, with random weights in FOLDER

Prints seconds of the processor (the clock's in brackets): to read the header and build the model, to trace and lower
a step, and to plan; the bytes planned and, with --step, measured; and by how much this process has grown. Each model
in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType as Kind

from tests import pack

from . import real_size_files
from .real_models import MODELS, RealModel, types

pack.comfy()
client = pack.part("native.client")
dry_run = pack.part("native.engines.dry_run")
host = pack.part("nodes.components.host")
loader = pack.part("nodes.loaders.diffusion")
placement = pack.part("native.placement")
planning = pack.part("native.planning")
request = pack.part("nodes.planner.request")
rules = pack.part("nodes.planner.rules")
unknown = pack.part("nodes.planner.unknown")
weights = pack.part("native.weights")

import comfy.nested_tensor  # noqa: E402
import comfy.sample  # noqa: E402

MIB = 1 << 20
LARGEST = 1 << 40  # bytes: every plan fits


def file_of(model: RealModel) -> real_size_files.ModelFile:
    """In core's names: GGUF in Q8_0; safetensors in F16 where a shape or metadata are more than GGUF has."""
    found = types(model.build())
    gguf = not model.config and all(len(each.shape) <= 4 for each in found.values())
    tensors = [(name, each.shape, _kind(each.type, gguf)) for name, each in found.items()]
    metadata = {"config": json.dumps(model.config)} if model.config else {}
    return real_size_files.ModelFile("a model" if gguf else "", tensors, metadata)


def _kind(stored: str, gguf: bool) -> Kind:
    return Kind[stored] if gguf or stored == "F32" else Kind.F16


@dataclass
class Measured:
    """Of one model. seconds: of the processor and of the clock, by what was done. grown: bytes of this process."""

    kind: str = ""
    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)  # bytes
    measured: int = 0  # bytes
    grown: int = 0

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the seconds of what is done within it, and notes how much the process has grown."""
        cpu, clock = time.process_time(), time.monotonic()
        yield
        self.seconds[what] = time.process_time() - cpu, time.monotonic() - clock


def conditioning(model: RealModel) -> list[Any]:
    """Random text, for both sides of the guidance."""
    source = torch.Generator().manual_seed(1)
    context = torch.randn(model.inputs()["context"].shape, generator=source)
    return [[context, {"pooled_output": torch.randn(1, model.pooled, generator=source)}]]


def latent(model: RealModel) -> Any:
    """Zeros; those of two latents together where the model has two."""
    inputs = model.inputs()
    if "audio" in inputs:
        return comfy.nested_tensor.NestedTensor([inputs["x"], inputs["audio"]])
    return inputs["x"]


def planned(path: Path, model: RealModel, hardware: str = "") -> Measured:
    """From the header alone, as the planner does it; nothing is loaded. hardware: a profile; "": this CPU."""
    found, runner = Measured(), client.another()
    there = tuple(runner.devices())
    here = planning.Machine(there, {each.name: LARGEST for each in there})
    device = "Vulkan0" if hardware else "CPU"
    machine = request.machine_of(request.PlanRequest(profile=request.profile_named(hardware))) if hardware else here
    recorder = dry_run.Recorder(runner, machine)
    before = _resident()
    with _most(found, before), host.dry_run_host(recorder), torch.inference_mode():
        recorder.part = planning.Part("1", "loading")
        with found.timed("build"):
            patcher = loader.load_diffusion(weights.read_header(path), placement.Placement(device))
        found.kind = type(patcher.model.model_config).__name__
        inputs = {
            "model": patcher, "positive": conditioning(model), "negative": conditioning(model), "cfg": 1.0,
            "latent_image": {"samples": latent(model)},
        }  # fmt: skip
        recorder.part = planning.Part("2", "sampling")
        with found.timed("trace and lower"):
            rules.RULES["KSampler"].rule(inputs, unknown.NodeTurn(recorder, unknown.Size()))
        with found.timed("plan"):
            plan = recorder.plan()
    assert plan.shortage is None, plan.shortage
    (component,) = plan.phases[-1].components
    peak, held = plan.peaks[device], component.memory
    found.planned = {
        "peak": peak, "weights": held.weight_bytes, "streamed": held.streamed, "compute": peak - held.weight_bytes,
    }  # fmt: skip
    runner.close()
    return found


def stepped(path: Path, model: RealModel) -> Measured:
    """One step on the CPU with cfg 1."""
    found, runner = Measured(), client.shared()
    runner.devices()
    before = _resident()
    text, zeros = conditioning(model), latent(model)
    with _most(found, before):
        with found.timed("build"):
            patcher = loader.load_diffusion(weights.read_header(path), placement.Placement("CPU"))
        with found.timed("step"):
            result = comfy.sample.sample(
                patcher, comfy.sample.prepare_noise(zeros, 3), 1, 1.0, "euler", "simple", text, text, zeros,
                disable_pbar=True, seed=3,
            )  # fmt: skip
    assert result.isfinite().all()
    found.measured = patcher.model.diffusion_model.engine_model.peaks["CPU"]
    runner.close()
    return found


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _resident() -> int:
    return _memory("VmRSS:")


@contextmanager
def _most(found: Measured, before: int) -> Iterator[None]:
    """Notes by how much the process has grown at most. Linux forgets its peak when 5 is written to clear_refs."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    yield
    found.grown = _memory("VmHWM:") - before


def main() -> None:
    """Prints what was measured of the models named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--step", type=Path, metavar="FOLDER", help="compute one, from a file written there")
    parser.add_argument("--hardware", default="", metavar="PROFILE", help="to plan for; without it, this CPU")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    for name in options.names or MODELS:
        if options.here:
            _report(name, options.hardware, options.step)
            continue
        more = ["--hardware", options.hardware, *(["--step", str(options.step)] if options.step else [])]
        subprocess.run([sys.executable, "-m", "tests.bench.from_file", "--here", *more, name], check=True)


def _report(name: str, hardware: str, folder: Path | None) -> None:
    model = MODELS[name]
    with tempfile.TemporaryDirectory(dir=folder) as written:
        file = file_of(model)
        path = Path(written) / f"model.{'gguf' if file.architecture else 'safetensors'}"
        real_size_files.write(path, file, hollow=folder is None)
        parameters = sum(math.prod(shape) for _, shape, _ in file.tensors)
        print(f"{name}, {model.size}: {parameters / 1e9:.2f} B parameters, {path.stat().st_size / MIB:,.0f} MiB")
        plan = planned(path, model, hardware)
        _print(plan)
        if folder is not None:
            step = stepped(path, model)
            _print(step)
            difference = step.measured - plan.planned["peak"]
            allowed = plan.planned["peak"] // 100 + 16 * MIB
            print(f"  measured less planned: {difference / MIB:,.1f} MiB, of {allowed / MIB:,.0f} allowed")


def _print(found: Measured) -> None:
    spent = ", ".join(f"{what} {cpu:.2f} ({clock:.2f})" for what, (cpu, clock) in found.seconds.items())
    total = sum(clock for _, clock in found.seconds.values())
    sizes = ", ".join(f"{what} {nbytes / MIB:,.0f}" for what, nbytes in found.planned.items())
    print(f"  s: {spent}: {total:.1f}")
    print(f"  MiB: {sizes or f'measured {found.measured / MIB:,.0f}'}; this process grew by {found.grown / MIB:,.0f}")


if __name__ == "__main__":
    main()
