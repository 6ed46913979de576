"""Every operation against torch, on every device, with ordinary values and with outliers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from native.client import Runner
from native.engines.ggml import GgmlModel
from native.lower import LowerError, LowerOptions
from native.lower.lowering import HANDLERS
from native.program import parameters
from native.trace import trace
from native.weights import WeightSet
from tests import pack

from .operation_cases import CASES, Case, Inputs, Parameters
from .places import Place

pack.comfy()
import comfy.quant_ops  # noqa: E402, F401  (registers comfy_kitchen's operations)

LARGE = 1e5
ALONE = LowerOptions(islands=False)  # what a handler cannot do is an error here


def _inputs(case: Case, outliers: bool) -> Inputs:
    generator = torch.Generator().manual_seed(11)
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in case.shapes.items()}
    if outliers:
        for x in inputs.values():
            x.view(-1)[::37] *= LARGE
    return inputs | case.host


def _error(results: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> float:
    assert [r.shape for r in results] == [e.shape for e in expected]
    return max(float((r - e).norm() / e.norm().clamp_min(1e-30)) for r, e in zip(results, expected, strict=True))


def _run(case: Case, inputs: Inputs, device: str, runner: Runner, options: LowerOptions | None = None) -> float:
    real = Parameters(case.parameters, "cpu")
    expected = case.function(real, {name: x.clone() for name, x in inputs.items()})
    arrays = {name: p.numpy() for name, p in real.named_parameters()}
    model = GgmlModel(
        Parameters(case.parameters, "meta"), WeightSet("a case", {}, (), arrays), device, options or ALONE, runner
    )
    results = model.run(case.name, case.function, inputs)
    model.unload()
    return _error(results, expected if isinstance(expected, tuple) else (expected,))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operation(case: Case, place: Place, runner: Runner) -> None:
    """As torch computes it."""
    error = _run(case, _inputs(case, False), place.device, runner)
    assert error <= (place.gelu if case.gelu else place.exact)


@pytest.mark.parametrize("case", [case for case in CASES if case.outliers], ids=lambda case: case.name)
def test_operation_with_outliers(case: Case, place: Place, runner: Runner) -> None:
    """Values that F16 cannot hold pass, as in T5's feed-forward and the VAE's attention."""
    error = _run(case, _inputs(case, True), place.device, runner, place.wide)
    assert error <= (place.gelu if case.gelu else place.exact)


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 1.0), ("F16", 200.0)])
@pytest.mark.parametrize("name", [case.name for case in CASES if case.name.startswith("attention")])
def test_flash_attention(name: str, kind: str, tolerance: float, place: Place, runner: Runner) -> None:
    """Long sequences take flash attention; K and V in F16 cost accuracy, in F32 they do not."""
    case = next(case for case in CASES if case.name == name)
    tolerance = 200.0 if name == "attention bias" else tolerance  # a mask is F16 in flash attention
    options = LowerOptions(flash_bytes=0, kv_type=kind)
    assert _run(case, _inputs(case, False), place.device, runner, options) <= min(tolerance * place.exact, 2e-2)


def test_every_handler_has_a_case() -> None:
    """A handler without a case above would be code that nothing checks."""
    met = set()
    for case in CASES:
        module = Parameters(case.parameters, "meta")
        for step in trace(case.name, module, case.function, _inputs(case, False)).steps:
            name = step.name.split(".")[1] if step.name.startswith("aten.") else step.name
            met |= {name, name.removesuffix("_")}
    assert set(HANDLERS) <= met


@pytest.mark.parametrize(
    "noise", [lambda x: torch.randn_like(x) + torch.rand_like(x[:1]), lambda x: torch.randn(6, 32), torch.rand_like]
)
def test_noise(noise: Callable[[torch.Tensor], torch.Tensor], place: Place, runner: Runner) -> None:
    """Every call draws anew, in order, what torch draws on the CPU after the same seed."""

    def function(m: object, t: Inputs) -> torch.Tensor:
        return t["x"] * 2 + noise(t["x"]) + torch.randn_like(t["x"] * 3)

    inputs = {"x": torch.arange(384.0).reshape(2, 6, 32)}
    model = GgmlModel(Parameters({}, "meta"), WeightSet("a case", {}, ()), place.device, None, runner)
    torch.manual_seed(3)
    expected = tuple(function(None, inputs) for _ in range(2))
    torch.manual_seed(3)
    results = tuple(model.run("noise", function, inputs)[0] for _ in range(2))
    model.unload()
    assert _error(results, expected) <= place.exact
    assert not torch.equal(*results)


def test_a_pool_in_pieces(place: Place, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more elements than Vulkan starts at once."""
    monkeypatch.setattr(parameters, "POOLED", 40)
    case = next(case for case in CASES if case.name == "max_pool2d padded")
    assert _run(case, _inputs(case, False), place.device, runner) <= place.exact


def test_unknown_operation_is_named() -> None:
    """The error says which operation, in which model."""
    module = Parameters({}, "meta")
    model = GgmlModel(module, WeightSet("my model", {}, ()), "CPU", ALONE)
    with pytest.raises(LowerError, match=r"my model.*aten\.special_bessel_j0"):
        model.lowered(0, lambda m, t: torch.special.bessel_j0(t["x"]), {"x": torch.zeros(2, 6, 32)})


def test_low_rank_branch(place: Place, runner: Runner) -> None:
    """A LoRA beside the weight gives what adding it to the weight gives."""
    from native.engines.model import LowRank, Patches

    case = next(case for case in CASES if case.name == "linear")
    inputs = _inputs(case, False)
    real = Parameters(case.parameters, "cpu")
    rng = np.random.default_rng(5)
    branch = LowRank(rng.normal(size=(4, 32)).astype("f4"), rng.normal(size=(48, 4)).astype("f4"))
    weights = WeightSet("a case", {}, (), {name: p.numpy().copy() for name, p in real.named_parameters()})
    model = GgmlModel(Parameters(case.parameters, "meta"), weights, place.device, None, runner)
    before = model.run(0, case.function, inputs)
    model.set_patches(Patches({"w": [branch]}))
    results = model.run(0, case.function, inputs)
    real.w.data += torch.from_numpy(branch.up @ branch.down)
    assert _error(results, (case.function(real, inputs),)) <= place.exact
    model.set_patches(Patches())
    assert torch.equal(model.run(0, case.function, inputs)[0], before[0])
