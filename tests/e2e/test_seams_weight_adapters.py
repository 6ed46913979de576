"""All kinds of weight patches of core, in all its names for a layer: the weights that are computed with are core's.

What is compared is what counts: a weight of the file with its branches added, or the array in its place. Some of the
patches are then sampled with, by the runner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import core_models, random_models
from tests.core_models import psnr
from tests.pack import part

from .any_diffusion import SMALL
from .test_seams_any_diffusion import sampled

loader = part("nodes.loaders.diffusion")
lora_module = part("nodes.components.lora")
reader = part("native.engines.torch_cpu.weight_reader")
weights = part("native.weights")

import comfy.lora  # noqa: E402
import comfy.sd  # noqa: E402

Lora = dict[str, Tensor]
BY_KIND = {small.kind: small for small in SMALL}
RANK = 4
BOUND = 45.0  # dB of the change, of which F16 leaves more

# A layer of each kind in every family: in core's names.
LAYERS = {
    "FLUX": ("double_blocks.0.img_attn.proj", "double_blocks.1.img_mlp.0", "single_blocks.0.linear2"),
    "SD15": ("input_blocks.1.1.transformer_blocks.0.attn2.to_k", "input_blocks.1.0.in_layers.2", "out.2"),
    "ZImage": ("layers.0.attention.out", "layers.1.feed_forward.w2"),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).half()


def pair(shape: torch.Size) -> tuple[Tensor, Tensor]:
    """up and down; of a kernel with one element to each side."""
    up, down = random(shape[0], RANK, *(1 for _ in shape[2:])), random(RANK, *shape[1:])
    return 0.3 * up, down / shape[1:].numel() ** 0.5


def plain(up_name: str, down_name: str, alpha: float | None = None) -> Callable[[str, torch.Size], Lora]:
    def make(x: str, shape: torch.Size) -> Lora:
        up, down = pair(shape)
        return {f"{x}{up_name}": up, f"{x}{down_name}": down} | ({} if alpha is None else {f"{x}.alpha": tensor(alpha)})

    return make


def tensor(value: float) -> Tensor:
    return torch.tensor(value)


def loha(x: str, shape: torch.Size) -> Lora:
    inner = shape[1:].numel()
    return {
        f"{x}.hada_w1_a": random(shape[0], RANK), f"{x}.hada_w1_b": random(RANK, inner) / inner**0.5,
        f"{x}.hada_w2_a": random(shape[0], RANK, seed=3), f"{x}.hada_w2_b": random(RANK, inner, seed=3),
        f"{x}.alpha": tensor(2.0),
    }  # fmt: skip


def lokr(x: str, shape: torch.Size) -> Lora:
    w2 = random(shape[0] // 2, shape[1] // 4, *shape[2:]) / shape[1:].numel() ** 0.5
    return {f"{x}.lokr_w1": random(2, 4), f"{x}.lokr_w2": w2, f"{x}.alpha": tensor(1.0)}


def lokr_low_rank(x: str, shape: torch.Size) -> Lora:
    if len(shape) > 2:
        return lokr(x, shape)
    a, b = random(shape[0] // 2, RANK), random(RANK, shape[1] // 4) / shape[1] ** 0.5
    return {f"{x}.lokr_w1": random(2, 4), f"{x}.lokr_w2_a": a, f"{x}.lokr_w2_b": b, f"{x}.alpha": tensor(1.0)}


def dora(x: str, shape: torch.Size) -> Lora:
    scale = 1.0 + 0.3 * random(shape[0], *(1 for _ in shape[1:])).abs()
    return plain(".lora_up.weight", ".lora_down.weight", 3.0)(x, shape) | {f"{x}.dora_scale": scale}


def dora_of_columns(x: str, shape: torch.Size) -> Lora:
    scale = 1.0 + 0.3 * random(1, *shape[1:2], *(1 for _ in shape[2:])).abs()
    return plain(".lora_up.weight", ".lora_down.weight")(x, shape) | {f"{x}.dora_scale": scale}


def oft(x: str, shape: torch.Size) -> Lora:
    return {f"{x}.oft_blocks": 0.1 * random(4, shape[0] // 4, shape[0] // 4), f"{x}.alpha": tensor(0.5)}


def boft(x: str, shape: torch.Size) -> Lora:
    blocks = 0.1 * random(2, shape[0] // 4, 4, 4)
    return {
        f"{x}.oft_blocks": blocks,
        f"{x}.alpha": tensor(0.5),
        f"{x}.rescale": 1 + 0.1 * random(shape[0], *shape[1:]),
    }


def glora(x: str, shape: torch.Size) -> Lora:
    rows, columns = shape[0], shape[1:].numel()
    return {
        f"{x}.a1.weight": 0.1 * random(shape[1], RANK), f"{x}.a2.weight": 0.1 * random(RANK, shape[1]),
        f"{x}.b1.weight": random(rows, RANK), f"{x}.b2.weight": random(RANK, columns) / columns**0.5,
    }  # fmt: skip


def middle(x: str, shape: torch.Size) -> Lora:
    if len(shape) != 4:
        return dora(x, shape)
    up, down, mid = random(shape[0], RANK, 1, 1), random(RANK, shape[1], 1, 1), random(RANK, RANK, *shape[2:])
    return {f"{x}.lora_up.weight": 0.1 * up, f"{x}.lora_down.weight": 0.1 * down, f"{x}.lora_mid.weight": 0.1 * mid}


def diff(x: str, shape: torch.Size) -> Lora:
    return {f"{x}.diff": 0.1 * random(*shape), f"{x}.diff_b": 0.5 * random(shape[0])}


def whole(x: str, shape: torch.Size) -> Lora:
    return {f"{x}.set_weight": 0.1 * random(*shape)}


KINDS: dict[str, Callable[[str, torch.Size], Lora]] = {
    "kohya": plain(".lora_up.weight", ".lora_down.weight", 2.0),
    "PEFT": plain(".lora_B.weight", ".lora_A.weight"),
    "PEFT default": plain(".lora_B.default.weight", ".lora_A.default.weight"),
    "diffusers": plain("_lora.up.weight", "_lora.down.weight"),
    "diffusers, dots": plain(".lora.up.weight", ".lora.down.weight"),
    "transformers": plain(".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    "Mochi": plain(".lora_B", ".lora_A"),
    "LoCon": middle,
    "LoHa": loha,
    "LoKr": lokr,
    "LoKr, low rank": lokr_low_rank,
    "DoRA": dora,
    "DoRA of columns": dora_of_columns,
    "OFT": oft,
    "BOFT": boft,
    "GLoRA": glora,
    "diff": diff,
    "set": whole,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Our MODEL and core's, by family; FLUX quantized."""
    folder = tmp_path_factory.mktemp("adapters")
    found = {}
    for kind in ("SD15", "ZImage"):
        tensors, path = BY_KIND[kind].tensors(), folder / f"{kind}.safetensors"
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        with BY_KIND[kind].detection():
            found[kind] = loader.load_diffusion(weights.read_header(path), "CPU"), core_models.core_model(tensors)
    found["FLUX"] = flux(folder)
    return found


def flux(folder: Path, **changes: Any) -> tuple[Any, Any]:
    """Ours from F16; core's of the same numbers."""
    tensors = random_models.flux(**changes)
    path = random_models.write_gguf(folder / f"flux{len(changes)}.gguf", "flux", tensors)
    return loader.load_diffusion(weights.read_header(path), "CPU"), core_models.core_model(tensors)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def patched(model: Any, lora: Lora, strength: float = 0.8) -> Any:
    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0.0)[0]


def effective(ours: Any, key: str) -> Tensor:
    """The weight that the engine computes with once a MODEL's patches are set, its branches added."""
    ours._set_patches(None)
    return computed_with(ours, key)


def computed_with(ours: Any, key: str) -> Tensor:
    """The weight that the engine computes with now, its branches added."""
    module, name = ours.model.diffusion_model, key.removeprefix("diffusion_model.")
    held = module.engine_model.weights
    values = reader.Values(held)
    found = values.whole(name)
    values.close()
    for number, branch in enumerate(module.engine_model._branches.get(name, ())):
        down, up = (torch.from_numpy(held.arrays[each]).float() for each in branch.names(name, number))
        found[branch.row : branch.row + branch.rows, branch.column : branch.column + branch.columns] += up @ down
    return found


def as_core(core: Any, key: str) -> tuple[Tensor, Tensor]:
    """The weight without and with core's patches."""
    before = core.model.state_dict()[key].float()
    return before, comfy.lora.calculate_weight(core.patches[key], before.clone(), key)


def compare(models: tuple[Any, Any], lora: Lora, strength: float = 0.8) -> set[str]:
    """The keys that a LoRA changes, each as core does; what is compared is the change."""
    ours, core = (patched(model, lora, strength) for model in models)
    assert ours.patches.keys() == core.patches.keys() != set()
    ours._set_patches(None)
    for key in core.patches:
        before, expected = as_core(core, key)
        assert not torch.equal(before, expected)
        assert psnr(computed_with(ours, key) - before, expected - before) >= BOUND, key
    return set(core.patches)


@pytest.mark.turns(3)
@pytest.mark.parametrize("family", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_weight_is_what_core_makes_of_it(models: dict[str, tuple[Any, Any]], kind: str, family: str) -> None:
    state = models[family][1].model.state_dict()
    lora: Lora = {}
    for layer in LAYERS[family]:
        lora |= KINDS[kind](f"diffusion_model.{layer}", state[f"diffusion_model.{layer}.weight"].shape)
    if kind in ("OFT", "BOFT", "LoKr", "LoKr, low rank"):  # whose blocks divide the rows
        lora = {name: value for name, value in lora.items() if ".out.2." not in name}
    compare(models[family], lora)


@pytest.mark.parametrize("family", LAYERS)
def test_every_name_that_core_has_for_a_layer(models: dict[str, tuple[Any, Any]], family: str) -> None:
    """kohya's, diffusers', OneTrainer's, ai-toolkit's and the others, fused and apart, as core maps them."""
    ours, core = models[family]
    state = core.model.state_dict()
    names = comfy.lora.model_lora_keys_unet(core.model, {})
    by_target: dict[Any, list[str]] = {}
    for name, target in names.items():
        by_target.setdefault(target, []).append(name)
    for number in range(max(map(len, by_target.values()))):
        lora: Lora = {}
        for target, found in by_target.items():
            key, window = (target, None) if isinstance(target, str) else target[:2]
            if number < len(found) and key.endswith(".weight") and key in state and state[key].ndim > 1:
                shape = list(state[key].shape)
                if window is not None:
                    shape[window[0]] = window[2]
                lora |= KINDS["kohya"](found[number], torch.Size(shape))
        if lora:
            assert len(compare((ours, core), lora)) >= 1


def test_slices_take_the_memory_of_the_file(models: dict[str, tuple[Any, Any]]) -> None:
    """Queries, keys and values apart, in F16: at most 1.2 times the file."""
    hidden = random_models.FLUX["hidden_size"]
    lora: Lora = {}
    for block in ("transformer.transformer_blocks.0", "transformer.single_transformer_blocks.1"):
        for name in ("to_q", "to_k", "to_v"):
            lora |= KINDS["PEFT"](f"{block}.attn.{name}", torch.Size((hidden, hidden)))
    compare(models["FLUX"], lora)
    held = models["FLUX"][0].model.diffusion_model.engine_model.weights.arrays
    assert sum(array.nbytes for array in held.values()) <= 1.2 * sum(value.nbytes for value in lora.values())


def magnitudes(name: str, shape: torch.Size) -> Lora:
    return KINDS["PEFT"](name, shape) | {f"{name}.lora_magnitude_vector": 1.0 + 0.3 * random(shape[0]).abs()}


def test_magnitude_of_peft_counts(models: dict[str, tuple[Any, Any]]) -> None:
    """magnitude * V / |V| of PEFT; core's own loader leaves the magnitude out, and still does (ComfyUI #4259)."""
    name = "diffusion_model.double_blocks.0.img_attn.proj"
    ours, core = models["FLUX"]
    before = core.model.state_dict()[f"{name}.weight"].float()
    lora = magnitudes(name, before.shape)
    up, down, magnitude = (value.float() for value in lora.values())
    rows = before + up @ down
    whole = rows * (magnitude[:, None] / rows.norm(dim=1, keepdim=True))
    for strength in (1.0, 0.5):
        found = effective(patched(ours, lora, strength), f"{name}.weight")
        assert psnr(found - before, strength * (whole - before)) >= BOUND
    torch.testing.assert_close(as_core(patched(core, lora), f"{name}.weight")[1], before + 0.8 * up @ down)


def test_a_zero_delta_is_nothing(models: dict[str, tuple[Any, Any]]) -> None:
    name = "diffusion_model.double_blocks.0.img_attn.proj"
    shape = torch.Size((256, 256))
    zeros = {key: torch.zeros_like(value) for key, value in KINDS["PEFT"](name, shape).items()}
    zeros[f"{name}.diff_b"] = torch.zeros(256)
    engine_model = models["FLUX"][0].model.diffusion_model.engine_model
    for lora, strength in ((zeros, 0.8), (KINDS["LoHa"](name, shape), 0.0)):
        effective(patched(models["FLUX"][0], lora, strength), f"{name}.weight")
        assert engine_model.weights is engine_model.file_weights


def test_control_lora_widens_the_input_layer(models: dict[str, tuple[Any, Any]]) -> None:
    """A LoRA of BFL's, such as FLUX.1-Depth: more channels, and norms in the place of the model's."""
    hidden = random_models.FLUX["hidden_size"]
    lora = KINDS["PEFT"]("img_in", torch.Size((hidden, 128)))
    lora["img_in.lora_B.bias"] = 0.1 * random(hidden)
    lora["single_blocks.0.norm.key_norm.scale"] = 1 + 0.1 * random(128)
    ours, core = (patched(model, lora) for model in models["FLUX"])
    small, depth = BY_KIND["Flux"], random(1, 16, 8, 12).float()
    results = [sampled(model, _given(small, depth)) for model in (ours, core)]
    assert psnr(*results) >= BOUND
    other = sampled(ours, _given(small, 2 * depth))
    assert psnr(other, results[1]) < BOUND
    assert psnr(sampled(models["FLUX"][0], _given(small, None)), sampled(models["FLUX"][1], _given(small, None))) > 60


def _given(small: Any, depth: Tensor | None) -> Any:
    from dataclasses import replace

    given = {} if depth is None else {"concat_latent_image": depth, "concat_mask": torch.ones(1, 1, 8, 12)}
    return replace(small, text=random_models.T5_WIDTH, pooled=random_models.CLIP_WIDTH, given=given)


def test_lora_of_dev_on_fill(tmp_path: Path) -> None:
    """A Turbo LoRA's input layer on a model that takes a mask and a picture besides (diffusers #10184)."""
    ours, core = flux(tmp_path, in_channels=96)
    name = "diffusion_model.img_in"
    before = core.model.state_dict()[f"{name}.weight"].float()
    assert before.shape[1] == 384
    lora = KINDS["PEFT"](name, torch.Size((before.shape[0], 64)))
    up, down = (value.float() for value in lora.values())
    expected = before.clone()
    expected[:, :64] += 0.8 * up @ down
    assert psnr(effective(patched(ours, lora), f"{name}.weight") - before, expected - before) >= BOUND
    other = KINDS["PEFT"]("diffusion_model.txt_in", torch.Size((before.shape[0], 48)))
    with pytest.raises(lora_module.LoRAError, match="belongs to another model"):
        patched(ours, other)


@pytest.mark.parametrize(("family", "kinds"), [
    ("FLUX", ("LoHa", "diff", "PEFT")), ("SD15", ("LoKr", "LoCon", "kohya")), ("ZImage", ("DoRA", "diff", "kohya")),
])  # fmt: skip
def test_sampled_as_core(models: dict[str, tuple[Any, Any]], family: str, kinds: tuple[str, ...]) -> None:
    """By the runner, with a patch of another kind on each layer; and afterwards without any again."""
    ours, core = models[family]
    state = core.model.state_dict()
    lora: Lora = {}
    for kind, layer in zip(kinds, LAYERS[family], strict=False):
        lora |= KINDS[kind](f"diffusion_model.{layer}", state[f"diffusion_model.{layer}.weight"].shape)
    small = _given(BY_KIND["Flux"], None) if family == "FLUX" else BY_KIND[family]
    plain_result, expected = sampled(ours, small), sampled(patched(core, lora), small)
    assert psnr(sampled(patched(ours, lora), small), expected) >= BOUND
    assert psnr(plain_result, expected) < BOUND
    assert torch.equal(sampled(ours, small), plain_result)


def test_what_does_not_fit_is_refused_where_it_is_loaded(models: dict[str, tuple[Any, Any]]) -> None:
    name = "diffusion_model.double_blocks.0.img_attn.proj"
    for kind in ("LoHa", "LoKr", "DoRA", "diff", "GLoRA"):
        with pytest.raises(lora_module.LoRAError, match=r"img_attn\.proj.* belongs to another model"):
            patched(models["FLUX"][0], KINDS[kind](name, torch.Size((512, 96))))


def test_array_of_another_type_is_half_the_size(models: dict[str, tuple[Any, Any]]) -> None:
    name = "double_blocks.0.img_attn.proj.weight"
    effective(patched(models["FLUX"][0], KINDS["LoHa"](f"diffusion_model.{name[:-7]}", torch.Size((256, 256)))), name)
    array = models["FLUX"][0].model.diffusion_model.engine_model.weights.arrays[name]
    assert array.dtype == np.float16
