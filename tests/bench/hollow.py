"""Models at their real size with nothing but a hole where their weights would be.

Such a file takes no room on a disk that knows holes. Every weight reads as zero, and a product with it takes as long as
any other. Programs and compute buffers are what they are with the real file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from native.ggml_types import LAYOUTS, tensor_bytes
from native.weights.runs import Run
from native.weights.weight_set import Parameter, WeightSet
from tests import pack
from tests.parity import model_cases

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.modules.diffusionmodules.model as autoencoder  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402

from .real_size_files import FLUX_SCHNELL  # noqa: E402

_COMFY = Path(comfy.ops.__file__).parent
_ALIGNMENT = 32


@dataclass(frozen=True)
class RealModel:
    """build(blocks) makes the module on the meta device; inputs(pixels) what `function` is called with.

    wide: its activations pass F16, as in nodes.remote_module. matrices: the type its blocks are stored in.
    """

    build: Callable[[int | None], torch.nn.Module]
    function: Callable[[Any, dict[str, torch.Tensor]], Any]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    matrices: str
    wide: bool = False


def _flux(blocks: int | None) -> torch.nn.Module:
    depth = {} if blocks is None else {"depth": blocks, "depth_single_blocks": blocks}
    return comfy.ldm.flux.model.Flux(
        dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init, **(FLUX_SCHNELL | depth)
    )


def _flux_inputs(pixels: int) -> dict[str, torch.Tensor]:
    return {
        "x": torch.randn(1, 16, pixels // 8, pixels // 8), "timestep": torch.ones(1),
        "context": torch.randn(1, 256, 4096), "y": torch.randn(1, 768),
    }  # fmt: skip


def _t5(blocks: int | None) -> torch.nn.Module:
    config = json.loads((_COMFY / "text_encoders/t5_config_xxl.json").read_text())
    config |= {} if blocks is None else {"num_layers": blocks}
    return comfy.text_encoders.t5.T5(config, torch.float32, "meta", comfy.ops.disable_weight_init)


def _clip(blocks: int | None) -> torch.nn.Module:
    config = json.loads((_COMFY / "sd1_clip_config.json").read_text())
    config |= {} if blocks is None else {"num_hidden_layers": blocks}
    return comfy.clip_model.CLIPTextModel(config, torch.float32, "meta", comfy.ops.disable_weight_init)


def _decoder(_blocks: int | None) -> torch.nn.Module:
    with torch.device("meta"):
        module = autoencoder.Decoder(
            ch=128, out_ch=3, ch_mult=[1, 2, 4, 4], num_res_blocks=2, attn_resolutions=[], in_channels=3,
            resolution=256, z_channels=16,
        )  # fmt: skip
    return attention_of_the_product(module)


def attention_of_the_product(module: torch.nn.Module) -> torch.nn.Module:
    """The module with torch's attention in every layer that asks for one of pictures."""
    for part in module.modules():
        if "optimized_attention" in vars(part):
            part.optimized_attention = autoencoder.pytorch_attention  # type: ignore[assignment]
    return module


MODELS = {
    "flux": RealModel(_flux, model_cases.call_flux, _flux_inputs, "Q4_K"),
    "t5": RealModel(_t5, lambda m, t: m(None, None, embeds=t["embeds"])[0],
                    lambda _: {"embeds": torch.randn(1, 256, 4096)}, "Q8_0", wide=True),
    "clip": RealModel(_clip, lambda m, t: m(t["ids"], None, intermediate_output=-2),
                      lambda _: {"ids": torch.randint(0, 49000, (1, 77))}, "F16"),
    "vae": RealModel(_decoder, lambda m, t: m(t["z"]),
                     lambda pixels: {"z": torch.randn(1, 16, pixels // 8, pixels // 8)}, "F32", wide=True),
}  # fmt: skip


def types(module: torch.nn.Module, matrices: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """(shape, ggml type) of the module's parameters: matrices inside blocks as said, others F16, vectors F32."""
    found = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        inside = "block" in name or matrices == "F32"
        plain = tensor.ndim < 2 or tensor.shape[-1] % LAYOUTS[matrices].block
        found[name] = tuple(tensor.shape), "F32" if plain else matrices if inside else "F16"
    return found


def weight_set(path: Path, name: str, module: torch.nn.Module, matrices: str) -> WeightSet:
    """The module's parameters, of the types that `types` says, in a file of zeros."""
    parameters, end = {}, 0
    for parameter, (shape, stored) in types(module, matrices).items():
        nbytes = tensor_bytes(stored, shape)
        parameters[parameter] = Parameter(parameter, stored, shape, (Run(str(path), stored, end, nbytes),))
        end += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    with path.open("wb") as file:
        file.truncate(end)
    status = path.stat()
    return WeightSet(name, parameters, ((str(path), status.st_size, status.st_mtime_ns),))
