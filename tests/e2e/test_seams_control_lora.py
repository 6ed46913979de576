"""Control-LoRAs, which are computed with weights of the diffusion model, against core's."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from tests import core_models
from tests.pack import part

from .core_model_kinds import BASES, CONTROL_LORAS, TAKES, CoreKind, control_lora
from .test_seams_any_diffusion import sampled
from .test_seams_core_models import BOUND, apart, base_models, picture, written

controlnet, move = part("nodes.loaders.controlnet"), part("nodes.loaders.move")
loader, weights = part("nodes.loaders.diffusion"), part("native.weights")

import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402

import nodes as core_nodes  # noqa: E402

SD15, SDXL = CONTROL_LORAS
QUANTIZED = 3e-2  # relative L2: of what is multiplied, Q8_0 on the CPU has 8 bits
LORA = {
    f"diffusion_model.{layer}.lora_{half}.weight": 0.2 * torch.ones(shape)
    for layer, up, down in (
        ("input_blocks.1.1.transformer_blocks.0.attn1.to_q", (64, 2), (2, 64)),
        ("input_blocks.1.0.in_layers.2", (64, 2, 1, 1), (2, 64, 3, 3)),
        ("time_embed.0", (256, 2), (2, 64)),
    )
    for half, shape in (("up", up), ("down", down))
}


def ours(name: str, device: str) -> Any:
    with torch.inference_mode():
        return controlnet.GGMLControlNet.execute(control_net_name=name, device=device, engine="auto").result[0]


def controlled(patcher: Any, kind: CoreKind, control: Any, strength: float = 0.8) -> torch.Tensor:
    """Two steps with a ControlNet, applied by core's node."""

    def apply(conditioning: Any) -> Any:
        node, hint = core_nodes.ControlNetApplyAdvanced(), picture(64, 96)
        return node.apply_controlnet(conditioning, conditioning, control, hint, strength, 0.0, 1.0)[0]

    return sampled(patcher, BASES[kind.base], apply)


def component(control: Any) -> Any:
    return control._made.patcher.model


def with_lora(patcher: Any) -> Any:
    with torch.inference_mode():
        return comfy.sd.load_lora_for_models(patcher, None, LORA, 1.0, 0.0)[0]


@pytest.mark.parametrize(
    ("kind", "device", "base"), [(SD15, "CPU", "CPU"), (SDXL, "CPU", "CPU"), (SDXL, "Vulkan0", "Vulkan0")],
    ids=lambda each: getattr(each, "base", each),
)  # fmt: skip
def test_computes_as_core(
    kind: CoreKind, device: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At other strengths, and with what a LoRA changes in the weights that it is made of."""
    name = written(kind, tmp_path, monkeypatch)
    core, found = core_nodes.ControlNetLoader().load_controlnet(name)[0], ours(name, device)
    our_base, core_base = base_models(BASES[kind.base], tmp_path, base)
    results = [sampled(core_base, BASES[kind.base])]
    for strength in (0.8, 0.3):
        results.append(controlled(core_base, kind, core, strength))
        assert apart(controlled(our_base, kind, found, strength), results[-1]) <= BOUND
    results.append(controlled(with_lora(core_base), kind, core))
    assert apart(controlled(with_lora(our_base), kind, found), results[-1]) <= BOUND
    for before, after in pairwise(results):
        assert apart(before, after) > 10 * BOUND  # each acts visibly
    assert apart(controlled(our_base, kind, found), results[1]) <= BOUND  # the LoRA leaves nothing behind
    made = component(found)
    controlled(our_base, kind, found)
    assert component(found) is made  # and was not made anew
    assert made.loaded.is_loaded
    comfy.model_management.unload_all_models()
    assert not made.loaded.is_loaded


def test_of_torchs_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that core's loader has read, and one of Python's pickle."""
    core = core_nodes.ControlNetLoader().load_controlnet(written(SD15, tmp_path, monkeypatch))[0]
    pickled = ours(written(replace(SD15, ending=".pth"), tmp_path, monkeypatch), "CPU")
    with torch.inference_mode():
        moved = move.GGMLMove.execute(core, "CPU", engine="ggml").result[0]
    our_base, core_base = base_models(BASES[SD15.base], tmp_path, "CPU")
    expected = controlled(core_base, SD15, core)
    for found in (pickled, moved):
        assert apart(controlled(our_base, SD15, found), expected) <= BOUND
    with pytest.raises(ValueError, match="computes already"):
        move.GGMLMove.execute(moved, "CPU")


def test_quantized_weights_stay_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, path, stored = BASES[SD15.base], tmp_path / "base.gguf", {}
    writer = gguf.GGUFWriter(path, "sd1")
    for name, x in small.tensors().items():
        whole = x.float().numpy()
        if x.ndim == 2 and x.shape[1] % 32 == 0:
            blocks = gguf.quants.quantize(whole, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            whole = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, whole)
        stored[name] = torch.from_numpy(whole)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    name = written(SD15, tmp_path, monkeypatch)
    core, found = core_nodes.ControlNetLoader().load_controlnet(name)[0], ours(name, "CPU")
    with small.detection():
        core_base, our_base = core_models.core_model(stored), loader.load_diffusion(weights.read_header(path), "CPU")
    assert apart(controlled(our_base, SD15, found), controlled(core_base, SD15, core)) <= QUANTIZED
    held = component(found).engine_model
    parameter = held.weights.parameters["input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"]
    assert (parameter.type, parameter.path) == ("Q8_0", str(path))
    assert f"{parameter.name}.lora_down.0" in held.weights.arrays
    own = held.weights.parameters["zero_convs.0.0.weight"]
    assert own.path == str(tmp_path / name)


def test_what_does_not_fit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(name: str = "", value: torch.Tensor | None = None) -> Any:
        found = {**control_lora("SD15"), **({name: value} if name else {})}
        there = {name: x for name, x in found.items() if x is not None}
        return ours(written(replace(SD15, tensors=lambda: there), tmp_path, monkeypatch), "CPU")

    for name in ("time_embed.0.down", "input_hint_block.0.weight"):
        with pytest.raises(weights.WeightFileError, match=f"Control-LoRA model.safetensors lacks {name}"):
            read(name)
    (tmp_path / "other").mkdir()
    unet, of_core = base_models(BASES[SD15.base], tmp_path, "CPU")
    other, _ = base_models(BASES[TAKES.base], tmp_path / "other", "CPU")
    unfit = r"Control-LoRA model.safetensors does not fit the {} diffusion model \({}"
    for base, why, changed in (
        (other, unfit.format("SD3", "TypeError"), ()),
        (unet, unfit.format("SD15", ".*is .32. where .64."), ("zero_convs.0.0.bias", torch.zeros(32))),
        (unet, unfit.format("SD15", "it has zero_convs.90.0.bias"), ("zero_convs.90.0.bias", torch.zeros(64))),
        (unet, "made for a weight of 256 x 96", ("time_embed.0.down", torch.ones(4, 96))),
        (of_core, "which is not a GGML one", ()),
    ):
        control = read(*changed)
        with torch.inference_mode(), pytest.raises(ValueError, match=why):
            control.pre_run(base.model, lambda part: part)
