"""Model patches: their layers are computed in the program of the model that a node puts them into, as core's are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import core_models, narrow
from tests.core_models import psnr
from tests.pack import part

from ..parity.model_cases import randomize
from ..templates.patches import z_image_names
from .test_seams_any_diffusion import BY_KIND, sampled

core_loading, core_module = part("nodes.components.core_loading"), part("nodes.components.core_module")
loader, memory_weights = part("nodes.loaders.diffusion"), part("nodes.components.memory_weights")
placement, weights = part("native.placement"), part("native.weights")

import comfy.ldm.lumina.controlnet as lumina  # noqa: E402
import comfy.ops  # noqa: E402
import comfy_extras.nodes_model_patch as nodes_model_patch  # noqa: E402

EQUAL, ACTS = 55.0, 40.0  # dB: to core's; and at most, to what is made without the patch
SIZES = (64, 96), (80, 112)  # pixels
PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}


@dataclass(frozen=True)
class Kind:
    """A model patch of core's: its class, how small it is built, and the diffusion model that it is for."""

    family: str
    place: str
    sizes: dict[str, Any]
    node: type
    dimensions: int  # of its latents

    def tensors(self) -> dict[str, Tensor]:
        """Random values by the names that a file has."""
        torch.manual_seed(0)
        module = {"QwenImage": nodes_model_patch.QwenImageBlockWiseControlNet, "ZImage": lumina.ZImage_Control}
        held = randomize(module[self.family](**self.sizes, **PLAIN)).state_dict()
        return z_image_names(held) if self.family == "ZImage" else dict(held)


KINDS = {
    "DiffSynth": Kind(
        "QwenImage", "comfy_extras.nodes_model_patch:QwenImageBlockWiseControlNet", {"num_layers": 2, "dim": 128},
        nodes_model_patch.QwenImageDiffsynthControlnet, 3,
    ),
    "Z-Image Fun": Kind(
        "ZImage", "comfy.ldm.lumina.controlnet:ZImage_Control",
        {"dim": 256, "n_heads": 2, "n_kv_heads": 2, "n_control_layers": 1, "additional_in_dim": 0,
         "refiner_control": False}, nodes_model_patch.ZImageFunControlnet, 2,
    ),
}  # fmt: skip


class Encoder:
    """In the place of a VAE: a layer that makes latents of pictures."""

    def __init__(self, layer: Any, dimensions: int) -> None:
        self.layer, self.dimensions, self.calls = layer, dimensions, 0
        self.patcher = None  # by which models are known

    def encode(self, pixels: Tensor) -> Tensor:
        """[batch, rows, columns, colours] as latents."""
        self.calls += 1
        latents: Tensor = self.layer(pixels.movedim(-1, 1))
        return latents.unsqueeze(2) if self.dimensions == 3 else latents

    def spacial_compression_encode(self) -> int:
        """As a VAE's."""
        return 8


class Layer(torch.nn.Module):
    """Of 16 channels for 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = torch.nn.Conv2d(3, 16, 8, stride=8)

    def forward(self, pixels: Tensor) -> Tensor:
        result: Tensor = self.conv(pixels)
        return result


@dataclass(frozen=True)
class Bench:
    """Models of one kind, ours on a device and core's, with what makes latents for each."""

    kind: Kind
    path: Path  # of the patch
    ours: Any
    core: Any
    device: str

    def patch(self, device: str | None = None) -> Any:
        """Our MODEL_PATCH; device: another than that of the model."""
        with narrow.narrowed({self.kind.place: self.kind.sizes}):
            return core_loading.load_core_model(
                core_loading.MODEL_PATCH, str(self.path), placement.Placement(device or self.device),
                torch.device("cpu"),
            )  # fmt: skip

    def encoder(self) -> Encoder:
        """Ours."""
        held = memory_weights.module_in_memory(Layer(), "encoder")
        return Encoder(core_module.CoreModule(*held, placement.Placement(self.device)), self.kind.dimensions)

    def with_patch(self, patch: Any, encoder: Encoder, picture: Tensor, model: Any = None) -> Any:
        """The MODEL that core's node makes."""
        node = self.kind.node()
        return getattr(node, node.FUNCTION)(model or self.ours, patch, encoder, image=picture, strength=0.8)[0]

    def expected(self, picture: Tensor) -> Tensor:
        """Core's own result."""
        with narrow.narrowed({self.kind.place: self.kind.sizes}):
            (patch,) = nodes_model_patch.ModelPatchLoader().load_model_patch(self.path.name)
        return self.sampled(self.with_patch(patch, Encoder(Layer(), self.kind.dimensions), picture, self.core))

    def sampled(self, model: Any) -> Tensor:
        """A latent of two steps."""
        return sampled(model, BY_KIND[self.kind.family])


@pytest.fixture(params=["CPU", "Vulkan0"])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS)
def bench(
    request: pytest.FixtureRequest, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    kind = KINDS[request.param]
    small = BY_KIND[kind.family]
    tensors = small.tensors()
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "model.safetensors")
    path = tmp_path / "patch.safetensors"
    save_file({name: value.to(torch.float16).contiguous() for name, value in kind.tensors().items()}, path)
    monkeypatch.setattr("folder_paths.get_full_path_or_raise", lambda _folder, name: str(tmp_path / name))
    with torch.inference_mode(), small.detection():
        ours = loader.load_diffusion(weights.read_header(tmp_path / "model.safetensors"), device)
        yield Bench(kind, path, ours, core_models.core_model(tensors), device)


def picture(rows: int, columns: int) -> Tensor:
    return torch.rand((1, rows, columns, 3), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("size", SIZES, ids=["as the latent", "another"])
def test_a_patch_is_a_part_of_the_program(bench: Bench, size: tuple[int, int]) -> None:
    """A picture of another size than the latent is encoded anew while the model is traced, once for all steps."""
    given, module = picture(*size), bench.ours.model.diffusion_model
    plain, expected = bench.sampled(bench.ours), bench.expected(given)
    patch, encoder = bench.patch(), bench.encoder()
    changed = bench.with_patch(patch, encoder, given)
    found = bench.sampled(changed)
    assert psnr(found, expected) >= EQUAL
    assert psnr(found, plain) < ACTS
    assert not module.engine_model.island_seconds
    assert patch.model.joined_to is module
    calls = encoder.calls
    assert torch.equal(bench.sampled(changed), found)
    assert encoder.calls == calls
    assert torch.equal(bench.sampled(bench.ours), plain)
    assert patch.model.joined_to is None


def test_the_weights_of_a_patch_are_in_memory_once(bench: Bench) -> None:
    patch = bench.patch()
    changed = bench.with_patch(patch, bench.encoder(), picture(64, 96))
    module = bench.ours.model.diffusion_model
    bench.sampled(changed)
    held = {each.digest for each in module.engine_model.runner.memory().models}
    assert module.engine_model.weights.digest in held
    assert patch.model.engine_model.weights.digest not in held


@pytest.mark.parametrize("size", SIZES, ids=["as the latent", "another"])
def test_a_patch_on_another_device_computes_there(bench: Bench, size: tuple[int, int]) -> None:
    other = {"CPU": "Vulkan0", "Vulkan0": "CPU"}[bench.device]
    given = picture(*size)
    patch = bench.patch(other)
    found = bench.sampled(bench.with_patch(patch, bench.encoder(), given))
    assert psnr(found, bench.expected(given)) >= EQUAL
    assert patch.model.joined_to is None
    assert bench.ours.model.diffusion_model.engine_model.island_seconds
