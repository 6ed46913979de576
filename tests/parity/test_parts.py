"""Wide activations computed in parts: the same numbers as in one piece, and torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from native.client import Runner
from native.engines.ggml import GgmlModel
from native.engines.model import LowRank, Patches
from native.lower import LowerOptions
from native.placement import DEVICE, Placement
from native.weights import WeightSet

from .model_cases import randomize
from .model_files import in_memory, quantized_file, reference, worst
from .operation_cases import Parameters
from .places import PLACES, Place
from .test_models import BY_NAME

ON_CPU, ON_VULKAN, ON_VULKAN_F16 = PLACES
WHOLE = LowerOptions(chunk_threshold_bytes=1 << 60)
PARTS = LowerOptions(chunk_threshold_bytes=0, chunk_tokens=16)
NAMES = ("FLUX schnell", "FLUX control", "T5", "CLIP-L", "VAE decoder")


def _products(model: GgmlModel, name: str, inputs: dict[str, torch.Tensor]) -> int:
    rows = model.lowered(name, BY_NAME[name].function, inputs).program.tensors
    return sum(row.name == "mul_mat" for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_parts(name: str, place: Place, runner: Runner) -> None:
    """Every feed-forward in chunks of tokens, every wide product by the columns that are used."""
    case = BY_NAME[name]
    torch.manual_seed(2)
    real, inputs = randomize(case.build("cpu")), case.inputs(2)
    models = [
        GgmlModel(case.build("meta").eval(), in_memory(real), place.device, options, runner)
        for options in (WHOLE, PARTS)
    ]
    fewer, more = (_products(model, name, inputs) for model in models)
    assert (more > fewer) == name.startswith(("FLUX", "T5", "CLIP"))
    parts = models[1].run(name, case.function, inputs)
    assert worst(parts, reference(real, case, inputs)) <= (place.gelu if case.gelu else place.exact)
    models[1].unload()
    if place is ON_CPU:  # on Vulkan it may round otherwise, and takes 15 s, which test_models.py spends already
        whole = models[0].run(name, case.function, inputs)
        models[0].unload()
        assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))


@pytest.mark.parametrize("place", [ON_CPU], indirect=True, ids=["CPU"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q8_0"])
def test_parts_of_repacked_weights(kind: str, place: Place, runner: Runner, tmp_path: Path) -> None:
    """Products with some rows of a repacked weight; none of them goes back to its file."""
    case = BY_NAME["FLUX schnell"]
    torch.manual_seed(1)
    real, inputs = randomize(case.build("cpu")), case.inputs(2)
    weights = quantized_file(tmp_path / "model.gguf", real, kind)
    results = []
    for options in (WHOLE, PARTS):
        model = GgmlModel(case.build("meta").eval(), weights, Placement(place.device, DEVICE), options, runner)
        results.append(model.run(case.name, case.function, inputs))
        (held,) = [model for model in runner.memory().models if model.digest == weights.digest]
        model.unload()
        assert held.repacked == sum(p.nbytes for p in weights.parameters.values() if p.stored == kind) or kind == "Q8_0"
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_parts_of_a_low_rank_branch(place: Place, runner: Runner) -> None:
    """A LoRA beside a wide weight is split with it."""
    case = BY_NAME["FLUX schnell"]
    torch.manual_seed(1)
    real, inputs = randomize(case.build("cpu")), case.inputs(1)
    rng = np.random.default_rng(5)
    branches = {}
    for place_of in ("single_blocks.0.linear1", "double_blocks.1.img_attn.qkv", "double_blocks.0.img_mlp.0"):
        name = f"{place_of}.weight"
        rows, columns = real.get_parameter(name).shape
        down, up = rng.normal(size=(4, columns)) * columns**-0.5, rng.normal(size=(rows, 4)) * 0.2
        branches[name] = [LowRank(down.astype("f4"), up.astype("f4"))]
    name, hidden = "single_blocks.1.linear1.weight", real.get_parameter("single_blocks.1.linear1.weight").shape[1]
    for row, rows in ((0, hidden), (2 * hidden, hidden), (hidden // 2, 2 * hidden)):  # queries, values, and across
        down, up = rng.normal(size=(4, hidden // 2)) * hidden**-0.5, rng.normal(size=(rows, 4)) * 0.2
        each = LowRank(down.astype("f2"), up.astype("f2"), row, hidden // 2 if row else 0)
        branches.setdefault(name, []).append(each)
    model = GgmlModel(case.build("meta").eval(), in_memory(real), place.device, PARTS, runner)
    model.set_patches(Patches(branches))
    results = model.run(case.name, case.function, inputs)
    model.unload()
    for name, found in branches.items():
        for each in found:
            (rank, columns), rows = each.down.shape, each.up.shape[0]
            assert rank == 4
            part = real.get_parameter(name).data[each.row : each.row + rows, each.column : each.column + columns]
            part += torch.from_numpy(each.up.astype("f4") @ each.down.astype("f4"))
    assert worst(results, reference(real, case, inputs)) <= max(2e-3, place.gelu)


def _rotated(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """As comfy.text_encoders.llama.apply_rope: each half of the channels is written in place."""
    x = torch.nn.functional.linear(tensors["x"], module.w).unflatten(-1, (4, -1)).transpose(1, 2)
    turned, half = x * tensors["cosines"], x.shape[-1] // 2
    turned[..., :half].addcmul_(x[..., half:], tensors["sines"])
    turned[..., half:].addcmul_(x[..., :half], tensors["sines"])
    return turned


@pytest.mark.parametrize("place", [ON_CPU], indirect=True, ids=["CPU"])
def test_parts_of_what_is_written_by_halves(place: Place, runner: Runner) -> None:
    """A source of a concatenation that has gaps is used by its columns."""
    real = Parameters({"w": (64, 32)}, "cpu")
    generator = torch.Generator().manual_seed(1)
    shapes = {"x": (1, 8, 32), "cosines": (8, 16), "sines": (8, 8)}
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights = WeightSet("a rotation", {}, (), {"w": real.w.detach().numpy()})
    model = GgmlModel(Parameters({"w": (64, 32)}, "meta"), weights, place.device, PARTS, runner)
    (result,) = model.run("rotated", _rotated, inputs)
    model.unload()
    torch.testing.assert_close(result, _rotated(real, inputs).detach(), rtol=1e-4, atol=1e-4)
