"""Compare a model with torch operation by operation: which is the first that departs, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from native.client import Runner
from native.engines.model import Function
from native.lower import LowerOptions, WeightType
from native.lower.lowering import Lowering
from native.lower.storages import StorageLayout
from native.lower.strides import contiguous
from native.lower.walk import walk
from native.program import Output
from native.trace import Trace, trace
from native.trace.values import HostStorages
from native.weights import WeightSet


@dataclass(frozen=True)
class Difference:
    """The result of one operation on a device against torch's: relative L2, and where it stands in the model."""

    place: str
    operation: str
    shape: tuple[int, ...]
    error: float


def differences(
    module: torch.nn.Module, function: Function, inputs: Mapping[str, torch.Tensor], device: str, runner: Runner,
    options: LowerOptions | None = None,
) -> list[Difference]:  # fmt: skip
    """Every operation that the device computes, in order, against torch on the module's own F32 parameters."""
    traced = trace("the model", module, function, dict(inputs))
    parameters = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    types = {name: WeightType("F32", tuple(p.shape)) for name, p in parameters.items()}
    lowering = Lowering(traced, types, options or LowerOptions(), {})
    lowered = walk(lowering)
    results = list(lowering.results)
    outputs = [Output(_copied(lowering, content), (content.operand.numel,)) for _, _, content in results]
    program, _ = lowering.b.program(outputs)
    used = {tensor.name for tensor in program.tensors if tensor.kind == "input"}
    arrays = {name: array for name, array in lowered.host(inputs).items() if name in used}
    arrays |= {name: inputs[name].float().contiguous().numpy() for name in traced.inputs if name in used}
    weights = WeightSet("the model", {}, (), {name: p.detach().float().numpy() for name, p in parameters.items()})
    got = runner.run(weights, device, program, arrays, checked=False)
    runner.unload(weights.digest, device)
    return _against_torch(traced, inputs, parameters, results, got)


def _copied(lowering: Lowering, content: StorageLayout) -> int:
    """An output of its own in torch's order: what an operation makes may be a view or be overwritten."""
    b, size = lowering.b, content.operand.numel
    return b.op("scale", b.reshape(contiguous(b, content.operand), (size,)), factor=1.0)


def _against_torch(
    traced: Trace, inputs: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor],
    results: list, got: list[np.ndarray],
) -> list[Difference]:  # fmt: skip
    storages = HostStorages()
    for name, window in traced.inputs.items():
        storages.put(window.storage, inputs[name].clone(), window)
    for name, window in traced.weights.items():
        storages.put(window.storage, parameters[name].detach().float().contiguous(), window)
    storages.flat |= traced.constants
    wanted = {(id(step), window.storage): array for (step, window, _), array in zip(results, got, strict=True)}
    found = []
    with torch.no_grad():
        for step in traced.steps:
            storages.run(step)
            for window in step.outputs:
                array = wanted.get((id(step), window.storage)) if window is not None else None
                if window is not None and array is not None:
                    real = storages.flat[window.storage].float().numpy()
                    error = float(np.linalg.norm(array - real) / max(np.linalg.norm(real), 1e-30))
                    found.append(Difference(step.module_path, step.name, window.shape, error))
    return found
