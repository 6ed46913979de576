"""Every diffusion model that core detects: a file in core's names, our loader, core's sampling; against core's loader.

No line of the pack names one of them. The small files are those of any_diffusion.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import core_models
from tests.conftest import SIXTHS
from tests.faults import damage
from tests.pack import part

from .any_diffusion import OTHERS, SMALL, Small

build = part("nodes.components.build")
loader = part("nodes.loaders.diffusion")
weights = part("native.weights")

import comfy.nested_tensor  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402

ON_VULKAN = ("SD3", "HunyuanVideo", "WAN22_T2V")
BOUND = 1e-3  # relative L2 after two steps; GELU's table decides it on the CPU
BY_KIND = {small.kind: small for small in SMALL}
LATENTS = {1: (24,), 2: (8, 12), 3: (2, 8, 12)}
TOKENS = 9
COMPUTED = 64 << 20  # bytes of weights that core's conversion computes, at most


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The sixth of the classes whose turn it is, or all of them."""
    if "small" in metafunc.fixturenames:
        option = metafunc.config.getoption
        kept = [BY_KIND[kind] for kind in ON_VULKAN]
        if metafunc.function is not test_loads_and_samples_on_vulkan:
            kept = list(SMALL) if option("--all") else list(SMALL[option("--sample") % SIXTHS :: SIXTHS])
        if metafunc.function is test_loads_at_real_width:
            kept = [small for small in kept if small.sizes or small.other]  # of others the small file is as detected
        metafunc.parametrize("small", kept, ids=lambda small: small.kind)


def sampled(patcher: Any, small: Small, condition: Callable[[Any], Any] = lambda given: given) -> torch.Tensor:
    """Two steps of Euler; several latents as core packs them. condition: what a node does to the conditioning."""
    latents, source = patcher.model.latent_format, torch.Generator().manual_seed(1)
    size = small.latent or LATENTS[latents.latent_dimensions]
    shapes = [(latents.latent_channels, *size), *([small.second] if small.second else [])]
    noise = comfy.nested_tensor.NestedTensor([torch.randn(1, *shape, generator=source) for shape in shapes])
    zeros = comfy.nested_tensor.NestedTensor([torch.zeros(1, *shape) for shape in shapes])
    if not small.second:
        (noise,), (zeros,) = noise.unbind(), zeros.unbind()
    text = torch.randn(1, TOKENS, small.text, generator=source)
    more = {
        "pooled_output": torch.randn(1, small.pooled, generator=source),
        "attention_mask": torch.ones(1, TOKENS, dtype=torch.long),
    }
    for name, value in small.given.items():
        more[name] = torch.randn(value, generator=source) if isinstance(value, tuple) else value
    given = condition([[text, more]])
    with torch.inference_mode():
        result = comfy.sample.sample(
            patcher, noise, 2, 1.0, "euler", "simple", given, given, zeros, seed=3, disable_pbar=True
        )
    return comfy.utils.pack_latents(result.unbind())[0] if small.second else result


def compared(small: Small, path: Path, device: str) -> tuple[Any, float]:
    """Our model of a class, and how far it is from core's."""
    tensors = small.tensors()
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, small.metadata)
    with small.detection():
        core = core_models.core_model(tensors, small.metadata)
        with torch.inference_mode():  # as ComfyUI runs nodes
            ours = loader.load_diffusion(weights.read_header(path), device)
    assert type(ours.model) is type(core.model)
    assert type(ours.model.model_config).__name__ == small.kind
    stored, module = core.model.diffusion_model.state_dict(), ours.model.diffusion_model.engine_model.module
    for name, buffer in core.model.diffusion_model.named_buffers():  # some of which nodes take out of the model
        assert name not in stored or torch.equal(module.get_buffer(name).float(), buffer.float()), name
    expected = sampled(core, small)
    result = sampled(ours, small)
    assert expected.isfinite().all()
    assert expected.norm() > 0
    return ours, float((result - expected).norm() / expected.norm())


def test_loads_and_samples_as_core(tmp_path: Path, small: Small) -> None:
    ours, error = compared(small, tmp_path / "model.safetensors", "CPU")
    assert error <= BOUND
    assert ours.model.diffusion_model.engine_model.placement.device == "CPU"


def test_loads_and_samples_on_vulkan(tmp_path: Path, small: Small) -> None:
    assert compared(small, tmp_path / "model.safetensors", "Vulkan0")[1] <= BOUND


def test_loads_at_real_width(tmp_path: Path, small: Small) -> None:
    """From a header of its real widths and few blocks, over a hole: as core's own detection finds it."""
    path = tmp_path / "model.safetensors"
    shapes = small.real_shapes()
    types = {name: ("F32" if len(shape) < 2 else "F16", shape) for name, shape in shapes.items()}
    header = damage.header_of(types, small.metadata)
    damage.write(path, damage.whole(header), header.size)
    model, found = build.diffusion_model(weights.read_header(path))
    assert type(model.model_config).__name__ == small.kind
    assert sum(parameter.nbytes for parameter in found.parameters.values()) > 0.9 * header.size - COMPUTED


def test_every_class_of_comfyui() -> None:
    """Every class that core detects has a small file or a reason."""
    missing = {kind.__name__ for kind in comfy.supported_models.models} - set(BY_KIND) - set(OTHERS)
    assert not missing, f"ComfyUI detects these, which have no row in any_diffusion.py: {sorted(missing)}"
    assert len(BY_KIND) == len(SMALL)
    assert not set(BY_KIND) & set(OTHERS)
