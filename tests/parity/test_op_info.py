"""Every handler against torch's own samples of operations (torch.testing's OpInfos), on the CPU and on Vulkan."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from native.client import Runner
from native.lower.lowering import HANDLERS
from native.weights import WeightSet, read_header
from native.weights.weight_set import parameter_of

from .op_info import Case, cases, stored, together, widened
from .op_info_table import ELSEWHERE, EVERYWHERE, LEFT_OUT, NAMES, TOLERANCE, WEIGHTS
from .places import PLACES, Place

ON = pytest.mark.parametrize("place", PLACES[:2], ids=lambda place: place.name, indirect=True, scope="session")
STORED = {"F16": 2e-3, "Q8_0": 2e-2}  # on devices that multiply such weights by activations rounded as they are


def _reasons(name: str) -> list[tuple[str, str]]:
    return [*LEFT_OUT.get(name, {}).items(), *EVERYWHERE.items()]


def _reason(name: str, case: Case) -> str | None:
    """The table's pattern of a sample or of its error that leaves it out."""
    text = f"{case.sample.name}: {case.error}"
    return next((pattern for pattern, _ in _reasons(name) if re.search(pattern, text)), None)


def _run(name: str, runs: Sequence[Case], place: Place, runner: Runner) -> list[np.ndarray]:
    program, arrays, inputs = together(runs)
    weights = WeightSet(name, {}, (), arrays)
    results = runner.run(weights, place.device, program, inputs, checked=False)
    runner.unload(weights.digest, place.device)
    return results


def _difference(found: np.ndarray, wanted: torch.Tensor) -> float:
    """Relative L2; infinite where the shapes differ, or where one has NaN or an infinity and the other has not."""
    result, expected = torch.from_numpy(found).double(), wanted.double()
    if result.shape != expected.shape:
        return float("inf")
    finite = expected.isfinite()
    if not torch.equal(result[~finite].nan_to_num(1, 2, 3), expected[~finite].nan_to_num(1, 2, 3)):
        return float("inf")
    distance, length = (result - expected)[finite].norm(), expected[finite].norm()
    return 0.0 if distance == 0 else float(distance / length) if distance.isfinite() else float("inf")


@ON
@pytest.mark.parametrize("name", NAMES)
def test_samples(name: str, place: Place, runner: Runner, record_property: Callable[[str, object], None]) -> None:
    """As torch computes each; a sample that does not run has a reason in the table."""
    every = [(case, _reason(name, case)) for case in cases(name)]
    unexplained = [f"{case.sample.name}: {case.error}" for case, reason in every if reason is None and case.error]
    assert not unexplained
    runs = [case for case, reason in every if reason is None]
    record_property("samples", (name, place.name, len(runs), len(every) - len(runs)))
    results = iter(_run(name, runs, place, runner) if runs else [])
    errors = {case.sample.name: max([_difference(next(results), each) for each in case.sample.wanted], default=0.0)
              for case in runs}  # fmt: skip
    tolerance = place.gelu if "gelu" in name else max(place.exact, TOLERANCE.get(name, 0.0))
    assert {sample: error for sample, error in errors.items() if not error <= tolerance} == {}


def test_every_row_is_met() -> None:
    """A reason that no sample has any more would hide the next one."""
    met = {(name, _reason(name, case)) for name in NAMES for case in cases(name)}
    rows = {(name, pattern) for name, own in LEFT_OUT.items() for pattern in own}
    assert rows <= met
    assert set(EVERYWHERE) <= {pattern for _, pattern in met}


def test_every_handler_is_met() -> None:
    """By some sample that runs, or there is no OpInfo of it."""
    met = set()
    for name in NAMES:
        for case in cases(name):
            if _reason(name, case) is None:
                short = {each.split(".")[1] if each.startswith("aten.") else each for each in case.operations}
                met |= short | {each.removesuffix("_") for each in short}
    rest = set(HANDLERS) - met
    reasons = {name: [pattern for pattern in ELSEWHERE if re.fullmatch(pattern, name)] for name in rest}
    assert {name for name, found in reasons.items() if not found} == set()
    assert {pattern for found in reasons.values() for pattern in found} == set(ELSEWHERE)


def _gguf(path: Path, tensors: dict[str, torch.Tensor], stored: str) -> dict[str, torch.Tensor]:
    """A file of tensors; returns the values that it has."""
    writer, values = gguf.GGUFWriter(path, "test"), {}
    number = gguf.GGMLQuantizationType[stored]
    for name, x in tensors.items():
        data = gguf.quants.quantize(x.reshape(-1, 32).numpy(), number)
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(x.shape))
        writer.add_tensor(name, data, raw_dtype=number)
        values[name] = torch.from_numpy(gguf.quants.dequantize(data, number).astype("f4").reshape(x.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@ON
@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("name", WEIGHTS)
def test_stored_weights(
    name: str, kind: str, place: Place, runner: Runner, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same with weights from a file in that type, against torch on the values that these have."""
    weight, dims = WEIGHTS[name]
    every = [case for case in cases(name) if not re.search("in place|strided", case.sample.name)]
    samples = [widened(case.sample, dims) for case in every
               if _reason(name, case) is None and case.sample.parameters[weight].numel()]  # fmt: skip
    record_property("samples", (f"{name}, {kind} weights", place.name, len(samples), len(every) - len(samples)))
    path = tmp_path / "weights.gguf"
    values = _gguf(path, {f"{i}.{weight}": each.parameters[weight] for i, each in enumerate(samples)}, kind)
    header = read_header(path)
    parameters = {key: parameter_of(header, header.tensors[key], key) for key in values}
    runs = [stored(each, weight, values[f"{i}.{weight}"], parameters[f"{i}.{weight}"].type)
            for i, each in enumerate(samples)]  # fmt: skip
    program, arrays, inputs = together(runs)
    rest = {key: array for key, array in arrays.items() if key not in parameters}
    weights = WeightSet(name, parameters, ((header.path, header.size, header.mtime_ns),), rest)
    results = runner.run(weights, place.device, program, inputs, checked=False)
    runner.unload(weights.digest, place.device)
    wanted = [(case.sample.name, each) for case in runs for each in case.sample.wanted]
    errors = {sample: _difference(found, each) for found, (sample, each) in zip(results, wanted, strict=True)}
    assert {sample: error for sample, error in errors.items() if not error <= STORED[kind]} == {}
