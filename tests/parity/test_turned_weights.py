"""Layers whose weights stay turned (ConvRot): what they multiply is turned for them, and for nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy_kitchen.tensor as kitchen
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from native.engines.ggml import GgmlModel
from native.engines.model import LowRank, Patches
from native.lower import LowerOptions
from native.placement import RESIDENCIES, Placement
from native.program.builder import LowerError
from native.weights import WeightSet, read_header
from native.weights.scales import under
from native.weights.weight_set import parameter
from native.wire.messages import Step
from tests.runner_toys import new_runner

COLUMNS, ROWS = 512, 96


class Pair(torch.nn.Module):
    """Two layers on one input, the second of which is used in part where `half` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(COLUMNS, ROWS, bias=False, device="meta")
        self.second = torch.nn.Linear(COLUMNS, ROWS, bias=False, device="meta")
        self.half = False

    def forward(self, x: Tensor) -> Tensor:
        weight = self.second.weight
        other = torch.nn.functional.linear(x, weight[: ROWS // 2]) if self.half else self.second(x)
        return torch.cat([self.first(x), other], dim=-1)


def pair(path: Path) -> tuple[WeightSet, dict[str, Tensor]]:
    """Weights in INT8 with turned columns, and their values."""
    values, stored, kind = {}, {}, kitchen.TensorWiseINT8Layout
    description = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}
    for seed, name in enumerate(("first", "second")):
        weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)) * 0.05
        codes, made = kind.quantize(weight, per_channel=True, convrot=True, convrot_groupsize=64)
        values[name] = kind.dequantize(codes, made)
        stored |= {f"{name}.weight": codes, f"{name}.weight_scale": made.scale}
        stored[f"{name}.comfy_quant"] = torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)
    save_file(stored, path)
    header = read_header(str(path))
    found = under(header, "")
    held = {name: parameter(name, each.shape, each.runs, [each], role="linear") for name, each in found.items()}
    return WeightSet("pair", held, ((header.path, header.size, header.mtime_ns),)), values


def call(module: Any, inputs: dict[str, Tensor]) -> Tensor:
    return module(inputs["x"])


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_layers_and_their_branches(tmp_path: Path, device: str) -> None:
    weights, values = pair(tmp_path / "pair.safetensors")
    model = GgmlModel(Pair(), weights, device)
    source = torch.Generator().manual_seed(9)
    x = torch.randn(7, COLUMNS, generator=source)
    down, up = torch.randn(4, COLUMNS, generator=source) * 0.05, torch.randn(ROWS, 4, generator=source)
    plain = torch.cat([x @ values["first"].T, x @ values["second"].T], dim=1)
    (found,) = model.run(0, call, {"x": x})
    assert (found - plain).norm() / plain.norm() < (1e-2 if device == "CPU" else 1e-3)
    model.set_patches(Patches({"first.weight": [LowRank(down.numpy(), up.numpy())]}))
    (patched,) = model.run(0, call, {"x": x})
    branch = x @ down.T @ up.T
    assert ((patched - found)[:, :ROWS] - branch).norm() / branch.norm() < 2e-3
    torch.testing.assert_close(patched[:, ROWS:], found[:, ROWS:])
    products = [
        op
        for op in model.lowered(0, call, {"x": x}).parts[0].program.tensors
        if op.kind == "op" and op.name == "mul_mat"
    ]
    assert len(products) == 5  # the layers, the branch, and one that turns the input of both layers


def test_a_use_that_cannot_be_turned_is_named(tmp_path: Path) -> None:
    weights, _ = pair(tmp_path / "pair.safetensors")
    module = Pair()
    module.half = True
    model = GgmlModel(module, weights, "CPU", LowerOptions())
    with pytest.raises(LowerError, match=r"second\.weight is stored turned \(ConvRot\)"):
        model.lowered(0, call, {"x": torch.randn(7, COLUMNS)})


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_planned_is_what_is_taken(tmp_path: Path, device: str) -> None:
    """Of weights that are converted, and of one whose rows the file has in another order."""
    weights, values = pair(tmp_path / "pair.safetensors")
    first = weights.parameters["first.weight"]
    runs = tuple(run for at in (ROWS // 2, 0) for run in first.runs[0].cut(at * COLUMNS, (at + ROWS // 2) * COLUMNS))
    weights = replace(weights, parameters=weights.parameters | {"first.weight": replace(first, runs=runs)})
    x = torch.randn(7, COLUMNS, generator=torch.Generator().manual_seed(9))
    swapped = torch.cat([values["first"][ROWS // 2 :], values["first"][: ROWS // 2], values["second"]])
    expected = x @ swapped.T
    for residency in RESIDENCIES:
        runner, placement = new_runner(), Placement(device, residency)
        runner.devices()
        model = GgmlModel(Pair(), weights, placement, runner=runner)
        (found,) = model.run(0, call, {"x": x})
        assert (found - expected).norm() / expected.norm() < (1e-2 if device == "CPU" else 1e-3)
        program = model.lowered(0, call, {"x": x}).parts[0].program
        steps = [Step("load", weights, placement), Step("run", weights, placement, program)]
        dry_run = runner.dry_run({"CPU": 1 << 40, "Vulkan0": 1 << 30}, steps)
        taken = runner.memory().models
        assert [replace(each, buffers=0) for each in taken] == [
            replace(each, buffers=0) for each in dry_run.steps[-1].models
        ]
        held = sum(each.weight_bytes for each in weights.parameters.values())
        assert taken[0].copied + taken[0].streamed == held
        runner.close()
