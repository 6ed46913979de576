"""Makes the tables of operations that the card check computes: a block of each of ComfyUI's models, traced and lowered.

    COMFYUI_PATH=... python -m tests.card_blocks

writes native/card/blocks/*.json. The card check itself then needs neither ComfyUI nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from native.lower import LowerOptions, WeightType, lower
from native.program import Program
from native.trace import trace
from tests import pack

pack.comfy()

import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.lumina.model  # noqa: E402
import comfy.ldm.wan.model  # noqa: E402
import comfy.ops  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

from native.ggml_types import LAYOUTS  # noqa: E402
from tests.bench.real_size_files import FLUX_SCHNELL  # noqa: E402
from tests.parity.model_cases import call_flux, sdpa  # noqa: E402

Inputs = dict[str, torch.Tensor]
FOLDER = pack.ROOT / "native" / "card" / "blocks"
WIDTHS = ("narrow", "real")  # of each model's tables: for the tests, and as the model's files have it
_FACTORY = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}
_VALUES = 64  # elements of a constant that is written down; larger ones are made at random, but for whole numbers


@dataclass(frozen=True)
class Block:
    """A model of one block of each kind: build(width), called with inputs(width, pixels).

    matrices: the type of its matrices, of which kernels and odd rows are F16.
    """

    file: str
    name: str
    matrices: str
    build: Callable[[bool], torch.nn.Module]
    function: Callable[[Any, Inputs], Any]
    inputs: Callable[[bool, int], Inputs]


def _flux(real: bool) -> torch.nn.Module:
    small = {"hidden_size": 256, "num_heads": 2, "context_in_dim": 256, "vec_in_dim": 256}
    config = FLUX_SCHNELL | {"depth": 1, "depth_single_blocks": 1} | ({} if real else small)
    return comfy.ldm.flux.model.Flux(**config, **_FACTORY)


def _sdxl(real: bool) -> torch.nn.Module:
    """Its three levels, the narrow one two of them, with one residual block and one transformer each."""
    width = {
        "model_channels": 320, "context_dim": 2048, "adm_in_channels": 2816, "num_head_channels": 64,
        "num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 4], "transformer_depth": [0, 1, 1],
        "transformer_depth_output": [0, 0, 0, 1, 0, 1],
    }  # fmt: skip
    small = {
        "model_channels": 32, "context_dim": 64, "adm_in_channels": 64, "num_head_channels": 32,
        "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 1],
        "transformer_depth_output": [0, 0, 0, 1],
    }  # fmt: skip
    return UNetModel(
        image_size=32, in_channels=4, out_channels=4, use_spatial_transformer=True, legacy=False,
        transformer_depth_middle=1, use_linear_in_transformer=True, num_heads=-1, num_classes="sequential",
        **(width if real else small), **_FACTORY,
    )  # fmt: skip


def _z_image(real: bool) -> torch.nn.Module:
    width = {"dim": 3840, "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": 2560, "multiple_of": 256}
    small = {"dim": 256, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 64, "multiple_of": 32}
    return comfy.ldm.lumina.model.NextDiT(
        patch_size=2, in_channels=16, n_layers=1, n_refiner_layers=1, qk_norm=True, axes_dims=[32, 48, 48],
        axes_lens=[1536, 512, 512], rope_theta=256.0, ffn_dim_multiplier=8 / 3 if real else 1.0,
        z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32, **(width if real else small), **_FACTORY,
    )  # fmt: skip


def _wan(real: bool) -> torch.nn.Module:
    """As Wan 2.2 5B."""
    width = {"dim": 3072, "ffn_dim": 14336, "num_heads": 24, "text_dim": 4096}
    small = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "text_dim": 256}
    return comfy.ldm.wan.model.WanModel(in_dim=48, out_dim=48, num_layers=1, **(width if real else small), **_FACTORY)


def _call(m: Any, t: Inputs) -> Any:
    named = {name: x for name, x in t.items() if name not in ("x", "timestep", "context")}
    return m(
        t["x"], t["timestep"], context=t["context"], transformer_options={"optimized_attention_override": sdpa}, **named
    )


def _call_z_image(m: Any, t: Inputs) -> Any:
    return m(
        t["x"],
        t["timestep"],
        t["context"],
        num_tokens=t["context"].shape[1],
        transformer_options={"optimized_attention_override": sdpa},
    )


def _tensors(**shapes: tuple[int, ...]) -> Inputs:
    return {"timestep": torch.ones(1)} | {name: torch.zeros(1, *shape) for name, shape in shapes.items()}


def _flux_inputs(real: bool, pixels: int) -> Inputs:
    text, pooled = (4096, 768) if real else (256, 256)
    return _tensors(x=(16, pixels // 8, pixels // 8), context=(256 if real else 16, text), y=(pooled,))


def _sdxl_inputs(real: bool, pixels: int) -> Inputs:
    text, pooled = (2048, 2816) if real else (64, 64)
    return _tensors(x=(4, pixels // 8, pixels // 8), context=(77, text), y=(pooled,))


def _z_image_inputs(real: bool, pixels: int) -> Inputs:
    return _tensors(x=(16, pixels // 8, pixels // 8), context=(100 if real else 24, 2560 if real else 64))


def _wan_inputs(real: bool, pixels: int) -> Inputs:
    """Pixels of a picture of as many tokens: it has 5 frames of latents, each of 16 x 16 pixels."""
    side = pixels // 32
    return _tensors(x=(48, 4, side * 2, side * 2), context=(512 if real else 16, 4096 if real else 256))


BLOCKS = (
    Block("flux", "FLUX.1", "Q4_K", _flux, call_flux, _flux_inputs),
    Block("sdxl", "SDXL", "F16", _sdxl, _call, _sdxl_inputs),
    Block("z_image", "Z-Image", "Q8_0", _z_image, _call_z_image, _z_image_inputs),
    Block("wan", "Wan 2.2 5B", "Q4_0", _wan, _call, _wan_inputs),
)  # fmt: skip
PIXELS = {"narrow": 64, "real": 256, "large": 512}  # the last is only timed


def program(block: Block, size: str) -> Program:
    """The program of a block: "narrow", or "real" and "large", of the same width."""
    real = size != "narrow"
    module = block.build(real).eval()
    types = {}
    for name, tensor in module.state_dict().items():
        matrix = tensor.ndim == 2 and tensor.shape[1] % LAYOUTS[block.matrices].block == 0
        kind = (
            "F32"
            if tensor.ndim < 2 or 1 in (tensor.numel() // max(tensor.shape),)
            else block.matrices
            if matrix
            else "F16"
        )
        types[name] = WeightType(kind, tuple(tensor.shape))
    options = LowerOptions(islands=False, flash_bytes=(8 << 20) if real else (1 << 12))
    traced = trace(block.name, module, block.function, block.inputs(real, PIXELS[size]))
    return lower(traced, types, options).program


def table(made: Program) -> dict[str, Any]:
    """A program as the file has it."""
    constants = {
        name: array.reshape(-1).tolist()
        for name, array in made.constants.items()
        if array.size <= _VALUES or array.dtype.kind == "i"
    }
    return {
        "rows": [[t.kind, t.name, t.type, list(t.ne), list(t.sources), list(t.parameters)] for t in made.tensors],
        "outputs": [output.tensor for output in made.outputs],
        "constants": constants,
    }


def text(block: Block) -> str:
    """The file of a block: a row of a table on each line."""
    sizes = {size: table(program(block, size)) for size in PIXELS}
    parts = []
    for size, each in sizes.items():
        rows = ",\n".join(f"      {json.dumps(row, separators=(',', ':'))}" for row in each["rows"])
        constants = json.dumps(each["constants"], separators=(",", ":"))
        parts.append(f'    "{size}": {{\n     "rows": [\n{rows}\n     ],\n'
                     f'     "outputs": {each["outputs"]},\n     "constants": {constants}\n    }}')  # fmt: skip
    return f'{{\n  "name": "{block.name}",\n  "sizes": {{\n' + ",\n".join(parts) + "\n  }\n}\n"


def main() -> None:
    """Writes the files."""
    FOLDER.mkdir(exist_ok=True)
    for block in BLOCKS:
        (FOLDER / f"{block.file}.json").write_text(text(block), encoding="utf-8")


if __name__ == "__main__":
    main()
