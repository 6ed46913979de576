"""Runs a case as the product does: traced, lowered and computed, or as far as it comes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from native.client import Runner
from native.engines.ggml import GgmlModel
from native.lower import LowerError, LowerOptions
from native.weights import WeightSet
from tests.pack import ROOT

from ..model_files import in_memory, quantized_file, round_activations, worst
from .case import QUANTIZED, ROUNDING, FamilyCase, expected, on_meta, product_attention

ALONE = LowerOptions(islands=False)  # what a handler cannot do is an error here
_CONVOLUTION = re.compile(r"a convolution of \(([^)]*)\) with \([^)]*\), groups (\d+), transposed (\w+)")
_ATTENTION = re.compile(r"attention with causal (\w+), grouped queries (\w+)")
_OPERATION = re.compile(r"\(((?:aten|comfy_kitchen|torchvision)\.\S+)\) is not supported")
_VALUE = re.compile(r"asks for a value that the model computes \(([^)]*)\)")


def lowered(
    case: FamilyCase, real: torch.nn.Module, module: torch.nn.Module, device: str = "CPU", runner: Runner | None = None
) -> GgmlModel:
    """The model with both sizes lowered, after one trace that must not be seen by the next ones."""
    model = GgmlModel(module, in_memory(real), device, ALONE, runner)
    with product_attention():
        model.traced("before", case.function, case.call_inputs(0))
        for size in (0, 1):
            model.lowered(case.name, case.function, case.call_inputs(size))
    return model


def errors(case: FamilyCase, device: str, runner: Runner) -> list[float]:
    """How far both sizes are from torch: the larger of relative L2 and relative maximum, of the worst output."""
    real = case.real()
    model = lowered(case, real, on_meta(real), device, runner)
    found = []
    for size in (0, 1):
        with product_attention():
            results = model.run(case.name, case.function, case.call_inputs(size))
        references = expected(real, case, size)
        assert [x.shape for x in results] == [x.shape for x in references]
        assert all(x.isfinite().all() for x in references)
        found.append(max(_error(result, wanted) for result, wanted in zip(results, references, strict=True)))
    model.unload()
    return found


def computed(
    case: FamilyCase, size: int, module: torch.nn.Module, weights: WeightSet, device: str, runner: Runner,
    options: LowerOptions,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """The results of one size."""
    model = GgmlModel(module, weights, device, options, runner)
    with product_attention():
        results = model.run(case.name, case.function, case.call_inputs(size))
    model.unload()
    return results


def quantized_error(
    case: FamilyCase, kind: str, device: str, runner: Runner, options: LowerOptions = ALONE
) -> tuple[float, float]:
    """Relative L2 of the second size to torch with the same weights in F32, of the worst output; how far it may be."""
    real = case.real()
    with tempfile.TemporaryDirectory() as folder:
        weights = quantized_file(Path(folder) / "model.gguf", real, kind)
        assert any(parameter.stored == kind for parameter in weights.parameters.values())
        results = computed(case, 1, on_meta(real), weights, device, runner, options)
    references = expected(real, case, 1)
    error = worst(results, references)
    if error <= QUANTIZED[kind]:
        return error, QUANTIZED[kind]
    round_activations(real, weights)
    return error, ROUNDING * worst(tuple(expected(real, case, 1)), references)


def _error(result: torch.Tensor, wanted: torch.Tensor) -> float:
    difference = result - wanted
    return max(float(difference.norm() / wanted.norm()), float(difference.abs().max() / wanted.abs().max()))


def stop(case: FamilyCase) -> str | None:
    """Why the case cannot be lowered, in a few words; None when it can. Raises what torch itself raises."""
    return _stop_in_a_new_process(case) if case.fresh else stop_here(case)


def _stop_in_a_new_process(case: FamilyCase) -> str | None:
    code = (
        "import json, sys; from tests.parity.families import cases, run; "
        "(case,) = [case for case in cases.CASES if case.name == sys.argv[1]]; print(json.dumps(run.stop_here(case)))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, case.name], cwd=ROOT, capture_output=True, text=True, check=True
    )
    answer: str | None = json.loads(child.stdout.splitlines()[-1])
    return answer


def stop_here(case: FamilyCase) -> str | None:
    """As `stop`, in this process."""
    real = case.real()
    module = on_meta(real)
    for size in (0, 1):
        assert all(x.isfinite().all() for x in expected(real, case, size)), f"{case.name} is not finite in torch"
    try:
        lowered(case, real, module)
    except Exception as error:
        return reason(error)
    return None


def reason(error: Exception) -> str:
    """The operation or the question that an error is about, without shapes and places."""
    message = re.sub(r"^a small model(, in \S+)? ", "", str(error))
    if found := _CONVOLUTION.search(message):
        shape, groups, transposed = found.groups()
        kind = f"convolution {shape.count(',') - 1}d"
        return kind + (", grouped" if groups != "1" else "") + (", transposed" if transposed == "True" else "")
    if found := _VALUE.search(message):
        return f"trace: asks for a value ({found[1]})"
    if found := _OPERATION.search(message):
        return found[1]
    if found := _ATTENTION.search(message):
        return "attention" + (", causal" if found[1] == "True" else "") + (", grouped" if found[2] == "True" else "")
    if isinstance(error, KeyError):
        return "KeyError of a storage"
    kind = "" if isinstance(error, LowerError) else f"{type(error).__name__}: "
    return kind + re.sub(r"Window\(.*\)", "a window", message.split("\n")[0])[:120]
