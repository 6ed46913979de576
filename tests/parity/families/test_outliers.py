"""Families whose hidden activations pass 65504, the largest number of F16, against torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from native.client import Runner
from native.errors import RunnerError
from native.weights import WeightSet

from ..model_files import in_memory, worst
from ..places import PLACES, Place
from .case import GELU, QUANTIZED, FamilyCase, expected, on_meta
from .cases import CASES
from .run import ALONE, computed, quantized_error

_T5 = r"\.wi(_1)?\."
_MIDDLE = r"decoder\.mid\.(block_1\.conv2|attn_1\.v)\."
# What has outliers: a factor of the products in feed-forwards, values of attention, the last convolution before it.
# Norms bring the output back to what it would be.
OUTLIERS = {
    "T5 XXL": _T5,
    "T5 base": _T5,
    "UMT5 XXL": _T5,
    "Z-Image": r"feed_forward\.w3\.",
    "Qwen-Image": r"(img|txt)_mlp\.net\.0\.proj\.",
    "SD / SDXL VAE decode": _MIDDLE,
    "FLUX VAE decode": _MIDDLE,
    "Wan 2.1 VAE (3 latent frames) decode": r"decoder\.middle\.(0\.residual\.6|1\.proj)\.",
    "HunyuanVideo VAE (causal 3D) decode": _MIDDLE,
    "HunyuanVideo 1.5 VAE decode": _MIDDLE,
}
BY_NAME = {case.name: replace(case, outliers=OUTLIERS[case.name]) for case in CASES if case.name in OUTLIERS}
ON_CPU, _, ON_VULKAN_F16 = PLACES
# Software Vulkan is slow: one of each kind there, in the setting that holds activations as F16 while it multiplies.
SLOW = {"T5 base", "UMT5 XXL", "FLUX VAE decode", "HunyuanVideo 1.5 VAE decode"}
RUNS = [(name, place) for place in (ON_CPU, ON_VULKAN_F16) for name in OUTLIERS if place is ON_CPU or name not in SLOW]
QUANTIZED_RUNS = [
    *((name, kind, ON_CPU) for name in OUTLIERS if BY_NAME[name].transformer for kind in QUANTIZED),
    *((name, kind, ON_VULKAN_F16) for name in ("T5 XXL", "Qwen-Image") for kind in QUANTIZED),
]
F16 = 5e-3  # with kernels of that type, which ggml's CPU backend multiplies by activations of that type


def _largest(case: FamilyCase, module: torch.nn.Module) -> float:
    """The largest number that torch multiplies by a matrix or kernel."""
    found: list[torch.Tensor] = []
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    hooks = [
        part.register_forward_pre_hook(lambda _, arguments: found.append(arguments[0].abs().max()))
        for part in module.modules()
        if isinstance(part, kinds)
    ]
    expected(module, case, 0)
    for hook in hooks:
        hook.remove()
    return float(max(found))


@pytest.mark.parametrize(("name", "place"), RUNS, indirect=["place"], ids=lambda value: getattr(value, "name", value))
def test_outliers(name: str, place: Place, runner: Runner) -> None:
    """In F32."""
    case = BY_NAME[name]
    real = case.real()
    assert _largest(case, real) > 1e5
    results = computed(case, 0, on_meta(real), in_memory(real), place.device, runner, place.wide)
    assert worst(results, expected(real, case, 0)) <= (place.gelu if case.tolerance >= GELU else place.exact)


@pytest.mark.parametrize(
    ("name", "kind", "place"), QUANTIZED_RUNS, indirect=["place"], ids=lambda value: getattr(value, "name", value)
)
def test_outliers_and_quantized_weights(name: str, kind: str, place: Place, runner: Runner) -> None:
    """Against torch with the same weights in F32."""
    error, allowed = quantized_error(BY_NAME[name], kind, place.device, runner, place.wide)
    assert error <= allowed


@pytest.mark.parametrize("place", [ON_CPU], indirect=True, ids=["CPU"])
@pytest.mark.parametrize("name", [name for name in OUTLIERS if "VAE" in name])
def test_outliers_and_f16_kernels(name: str, place: Place, runner: Runner) -> None:
    """As in the files of many VAEs."""
    case = BY_NAME[name]
    real = case.real()
    weights = WeightSet("a small model", {}, (), {})
    for key, p in real.state_dict().items():
        kernel = p.ndim > 2 and p.numel() > max(p.shape)
        weights.arrays[key] = p.half().numpy() if kernel else p.numpy()
        p.copy_(torch.from_numpy(weights.arrays[key]))
    results = computed(case, 0, on_meta(real), weights, place.device, runner, place.wide)
    assert worst(results, expected(real, case, 0)) <= F16


@pytest.mark.parametrize("place", [ON_VULKAN_F16], indirect=True, ids=["Vulkan-F16"])
def test_overflow_is_said(place: Place, runner: Runner) -> None:
    """Lowered without regard to outliers, a model whose activations overflow does not compute something else."""
    case = BY_NAME["Qwen-Image"]
    real = case.real()
    with pytest.raises(RunnerError, match="infinite or not a number"):
        computed(case, 0, on_meta(real), in_memory(real), place.device, runner, ALONE)
