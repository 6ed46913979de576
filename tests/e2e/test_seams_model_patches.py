"""Core's nodes that put functions into a model: each acts, and gives what it gives in core.

At 256 pixels and six steps, on a U-Net like SD1.5's and on FLUX.1. A run takes those nodes whose turn it is.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import core_models, random_models
from tests.conftest import SAMPLES
from tests.core_models import psnr
from tests.pack import part

from .any_diffusion import SMALL

loader = part("nodes.loaders.diffusion")
weights = part("native.weights")

import comfy.samplers  # noqa: E402

import nodes as core_nodes  # noqa: E402

BY_KIND = {small.kind: small for small in SMALL}
EQUAL, ACTS = 40.0, 45.0  # dB: to core's; and at most, to what is made without the node
SIDE = 32  # of the latent


@dataclass(frozen=True)
class Node:
    """A node of core's on one of the families.

    acts: whether the picture changes. equal: dB to core's. mask: whether the latent has one.
    """

    kind: str
    file: str
    family: str
    inputs: dict[str, Any] = field(default_factory=dict)
    acts: bool = True
    equal: float = EQUAL
    mask: bool = False
    steps: int = 6
    cfg: float = 4.0

    @property
    def name(self) -> str:
        return f"{self.kind} {self.family}"


WINDOWS = {
    "context_length": SIDE // 2, "context_overlap": 4, "context_schedule": "standard_static", "context_stride": 1,
    "closed_loop": False, "fuse_method": "pyramid", "freenoise": False, "causal_window_fix": False,
}  # fmt: skip
NODES = (
    Node("PerturbedAttentionGuidance", "pag", "SD15", {"scale": 3.0}),
    Node("SelfAttentionGuidance", "sag", "SD15", {"scale": 0.8, "blur_sigma": 2.0}),
    Node("SkipLayerGuidanceDiT", "slg", "FLUX",
         {"double_layers": "0", "single_layers": "1", "scale": 3.0, "start_percent": 0.0, "end_percent": 1.0}),
    Node("SkipLayerGuidanceDiTSimple", "slg", "FLUX",
         {"double_layers": "0", "single_layers": "1", "start_percent": 0.0, "end_percent": 1.0}),
    Node("HyperTile", "hypertile", "SD15",
         {"tile_size": 64, "swap_size": 1, "max_depth": 1, "scale_depth": False}),
    Node("TomePatchModel", "tomesd", "SD15", {"ratio": 0.4}, equal=30.0),  # merges tokens by chance
    Node("FreeU", "freelunch", "SD15", {"b1": 1.4, "b2": 1.6, "s1": 0.5, "s2": 0.2}),
    Node("FreeU_V2", "freelunch", "SD15", {"b1": 1.4, "b2": 1.6, "s1": 0.5, "s2": 0.2}),
    Node("NAGuidance", "nag", "SD15", {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}),
    Node("NAGuidance", "nag", "FLUX", {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}),
    Node("CFGZeroStar", "cfg", "FLUX"),
    Node("CFGNorm", "cfg", "FLUX", {"strength": 0.5}),
    Node("RescaleCFG", "model_advanced", "SD15", {"multiplier": 0.7}, cfg=8.0),
    Node("Mahiro", "mahiro", "SD15"),
    Node("TCFG", "tcfg", "SD15"),
    Node("APG", "apg", "SD15", {"eta": 0.5, "norm_threshold": 5.0, "momentum": 0.5}),
    Node("FreSca", "fresca", "SD15", {"scale_low": 1.0, "scale_high": 1.6, "freq_cutoff": 4}),
    Node("Epsilon Scaling", "eps", "SD15", {"scaling_factor": 1.1}),
    Node("PatchModelAddDownscale", "model_downscale", "SD15", {
        "block_number": 1, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.6,
        "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic"}),
    Node("ScaleROPE", "rope", "FLUX", {
        "scale_x": 4.0, "shift_x": 0.0, "scale_y": 4.0, "shift_y": 0.0, "scale_t": 1.0, "shift_t": 0.0}),
    Node("EasyCache", "easycache", "FLUX",
         {"reuse_threshold": 0.9, "start_percent": 0.1, "end_percent": 0.95, "verbose": False}, steps=10),
    Node("LazyCache", "easycache", "FLUX",
         {"reuse_threshold": 0.9, "start_percent": 0.1, "end_percent": 0.95, "verbose": False}, steps=10),
    Node("EasyCache", "easycache", "SD15",
         {"reuse_threshold": 0.9, "start_percent": 0.1, "end_percent": 0.95, "verbose": False}, steps=10),
    Node("TorchCompileModel", "torch_compile", "SD15", {"backend": "inductor"}, acts=False),
    Node("ModelSamplingDiscrete", "model_advanced", "SD15", {"sampling": "v_prediction", "zsnr": False}),
    Node("ModelSamplingDiscrete", "model_advanced", "SD15", {"sampling": "lcm", "zsnr": True}),
    Node("ModelSamplingContinuousEDM", "model_advanced", "SD15",
         {"sampling": "v_prediction", "sigma_max": 80.0, "sigma_min": 0.01}),
    Node("ModelSamplingContinuousV", "model_advanced", "SD15",
         {"sampling": "v_prediction", "sigma_max": 300.0, "sigma_min": 0.05}),
    Node("ModelSamplingFlux", "model_advanced", "FLUX",
         {"max_shift": 2.0, "base_shift": 1.0, "width": 1024, "height": 1024}),
    Node("ModelSamplingSD3", "model_advanced", "FLUX", {"shift": 6.0}),
    Node("ModelSamplingAuraFlow", "model_advanced", "FLUX", {"shift": 4.0}),
    Node("DifferentialDiffusion", "differential_diffusion", "SD15", {"strength": 1.0}, mask=True),
    Node("ContextWindowsManual", "context_windows", "SD15", WINDOWS | {"dim": 3}),
    Node("ContextWindowsManual", "context_windows", "FLUX", WINDOWS | {"dim": 2, "freenoise": True}),
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The nodes whose turn it is, or all of them."""
    if "node" in metafunc.fixturenames:
        option = metafunc.config.getoption
        kept = NODES if option("--all") else NODES[option("--sample") % SAMPLES :: SAMPLES]
        metafunc.parametrize("node", kept, ids=lambda node: node.name)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Our MODEL and core's, by family."""
    folder = tmp_path_factory.mktemp("patches")
    unet = BY_KIND["SD15"].tensors()
    save_file({name: value.contiguous() for name, value in unet.items()}, folder / "unet.safetensors")
    flux = random_models.flux()
    path = random_models.write_gguf(folder / "flux.gguf", "flux", flux)
    with BY_KIND["SD15"].detection():
        header = weights.read_header(Path(folder / "unet.safetensors"))
        found = {"SD15": (loader.load_diffusion(header, "CPU"), core_models.core_model(unet))}
    return found | {"FLUX": (loader.load_diffusion(weights.read_header(path), "CPU"), core_models.core_model(flux))}


def conditioning(node: Node, seed: int) -> list[Any]:
    """Random tensors as a prompt's, as wide as the node's family takes them."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, random_models.CLIP_WIDTH, generator=generator)
    wide = {"SD15": 48, "FLUX": random_models.T5_WIDTH}[node.family]
    return [[torch.randn(1, 9, wide, generator=generator), {"pooled_output": pooled}]]


def sample(model: Any, node: Node) -> Tensor:
    """A picture of 256 pixels, of numbers that the node's family takes."""
    channels = {"SD15": 4, "FLUX": 16}[node.family]
    torch.manual_seed(5)
    latent = {"samples": torch.zeros(1, channels, SIDE, SIDE)}
    if node.mask:
        latent["noise_mask"] = torch.linspace(0, 1, SIDE).expand(1, 1, SIDE, SIDE)
    positive, negative = conditioning(node, 1), conditioning(node, 2)
    (result,) = core_nodes.common_ksampler(
        model, 7, node.steps, node.cfg, "euler", "simple", positive, negative, latent
    )
    return result["samples"]


def applied(node: Node, model: Any) -> Any:
    """The MODEL that the node makes of one."""
    module = importlib.import_module(f"comfy_extras.nodes_{node.file}")
    kind = next(each for each in vars(module).values() if inspect.isclass(each) and _id(each) == node.kind) if not (
        hasattr(module, "NODE_CLASS_MAPPINGS")
    ) else module.NODE_CLASS_MAPPINGS[node.kind]  # fmt: skip
    if hasattr(kind, "define_schema"):
        found = kind.execute(model, **node.inputs)
        return (found.args if hasattr(found, "args") else found)[0]
    return getattr(kind(), kind.FUNCTION)(model, **node.inputs)[0]


def _id(kind: Any) -> str:
    schema = getattr(kind, "define_schema", None)
    try:
        return kind.define_schema().node_id if schema else ""
    except NotImplementedError:
        return ""


def test_node_acts_as_in_core(models: dict[str, tuple[Any, Any]], node: Node) -> None:
    ours, core = models[node.family]
    plain = sample(ours, node)
    expected = plain if node.kind == "TorchCompileModel" else sample(applied(node, core), node)
    found = sample(applied(node, ours), node)
    assert psnr(found, expected) >= node.equal
    if node.acts:
        assert psnr(found, plain) < ACTS


def test_patches_leave_the_model_as_it_was(models: dict[str, tuple[Any, Any]]) -> None:
    ours, node = models["FLUX"][0], replace(NODES[0], family="FLUX", steps=2)
    plain = sample(ours, node)
    changed = applied(next(each for each in NODES if each.kind == "SkipLayerGuidanceDiTSimple"), ours)
    assert not torch.equal(sample(changed, node), plain)
    assert torch.equal(sample(ours, node), plain)


def test_two_models_after_one_another(models: dict[str, tuple[Any, Any]]) -> None:
    """As Wan 2.2's high and low noise models: one begins, the other, with another shift and patches, ends."""
    node = next(each for each in NODES if each.kind == "ModelSamplingSD3")
    nag = next(each for each in NODES if each.name == "NAGuidance FLUX")
    results = []
    for model in models["FLUX"]:
        first, second = applied(node, model), applied(nag, applied(node, model))
        positive, negative = conditioning(node, 1), conditioning(node, 2)
        advanced = core_nodes.KSamplerAdvanced().sample
        latent = {"samples": torch.zeros(1, 16, SIDE // 2, SIDE // 2)}
        (begun,) = advanced(first, "enable", 3, 6, 3.0, "euler", "simple", positive, negative, latent, 0, 3, "enable")
        (ended,) = advanced(second, "disable", 3, 6, 2.0, "euler", "simple", positive, negative, begun, 3, 6, "disable")
        results.append(ended["samples"])
    assert psnr(*results) >= EQUAL


@pytest.mark.parametrize("guider", ["DualCFGGuider", "PerpNegGuider"])
def test_guiders_of_several_conditions(models: dict[str, tuple[Any, Any]], guider: str) -> None:
    from comfy_extras import nodes_custom_sampler, nodes_perpneg

    node = next(each for each in NODES if each.name == "CFGNorm FLUX")
    one, two, three = (conditioning(node, seed) for seed in (1, 2, 3))
    results = []
    for model in models["FLUX"]:
        if guider == "PerpNegGuider":
            made = nodes_perpneg.PerpNegGuider.execute(model, one, two, three, 4.0, 0.8)[0]
        else:
            made = nodes_custom_sampler.DualCFGGuider.execute(model, one, two, three, 4.0, 2.0, "regular")[0]
        noise = torch.randn(1, 16, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(1))
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 6)
        sampler = comfy.samplers.sampler_object("euler")
        results.append(made.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=1))
    assert psnr(*results) >= EQUAL
