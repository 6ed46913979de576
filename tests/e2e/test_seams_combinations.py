"""A hundred combinations of ComfyUI's own nodes, at 256 pixels and six steps: as core's, and every node has its effect.

A run takes those whose turn it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import SAMPLES
from tests.core_models import psnr
from tests.templates import host

from .core_model_kinds import BASES, CONTROLS
from .node_combinations import COMBINATIONS, Combination, Given, Use
from .test_seams_core_models import base_models, pair
from .test_seams_weight_adapters import KINDS

import folder_paths  # isort: skip

import nodes as core_nodes  # isort: skip

EQUAL, ACTS = 40.0, 45.0  # dB: to core's; and at most, to what is made without a node
PIXELS, FRAMES = 256, 3  # FRAMES: of a video's latent
WITH_MASK = ("LTXV", "Omnigen2")  # families whose text encoder gives a mask, which they ask for
State = dict[str, Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "combination" in metafunc.fixturenames:
        option = metafunc.config.getoption
        kept = COMBINATIONS if option("--all") else COMBINATIONS[option("--sample") % SAMPLES :: SAMPLES]
        metafunc.parametrize("combination", kept, ids=lambda combination: combination.name)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


class MeanVAE:
    """A VAE whose latent is the mean of each square of pixels, so that both models get the same."""

    def __init__(self, latents: Any) -> None:
        self.latents, self.latent_channels = latents, latents.latent_channels

    def spacial_compression_encode(self) -> int:
        return int(self.latents.spacial_downscale_ratio)

    def encode(self, pixels: Tensor) -> Tensor:
        frames = pixels.movedim(-1, 1)[:, :1]  # [frames, 1, height, width]
        small = torch.nn.functional.adaptive_avg_pool2d(frames, side(self.latents)).sub(0.5)
        if self.latents.latent_dimensions == 3:
            few = (small.shape[0] - 1) // 4 + 1
            small = small[:few].movedim(0, 1)[None]  # [1, 1, frames, height, width]
        weights = torch.linspace(-2, 2, self.latents.latent_channels)
        return small * weights.view(1, -1, *(1 for _ in small.shape[2:]))


def side(latents: Any) -> int:
    return PIXELS // latents.spacial_downscale_ratio


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conditioning(family: str, seed: int, tokens: int = 9) -> list[Any]:
    """Random tensors as a prompt's, as the family takes them."""
    small = BASES[family]
    given = {"pooled_output": random(1, small.pooled, seed=seed)}
    if family in WITH_MASK:
        given["attention_mask"] = torch.ones(1, tokens, dtype=torch.long)
    for name, value in small.given.items():
        given[name] = random(*value, seed=seed) if isinstance(value, tuple) else value
    return [[random(1, tokens, small.text, seed=seed + 10), given]]


def given(combination: Combination, model: Any, control: Any) -> State:
    """The values that the nodes of a combination find, by name."""
    family, latents = combination.family, model.model.latent_format
    sizes = {1: (side(latents),), 2: (side(latents),) * 2, 3: (FRAMES, *(side(latents),) * 2)}
    shape = 1, latents.latent_channels, *(BASES[family].latent or sizes[latents.latent_dimensions])
    as_text = random(1, 64, BASES[family].text, seed=9)
    seen = SimpleNamespace(
        image_embeds=random(1, 1024, seed=8),
        penultimate_hidden_states=random(1, 257, 1280, seed=9),
        last_hidden_state=as_text,
    )
    across = torch.linspace(0, 1, PIXELS).expand(PIXELS, PIXELS)
    return {
        "MODEL": model,
        "CONTROL_NET": control,
        "VAE": MeanVAE(latents),
        "CLIP_VISION": SimpleNamespace(encode_image=lambda _: SimpleNamespace(image_embeds=as_text[:, 0])),
        "CLIP_VISION_OUTPUT": seen,
        "STYLE_MODEL": SimpleNamespace(get_cond=lambda seen: seen.last_hidden_state),
        "IMAGE": torch.stack([across, across.T, across.square()], dim=-1)[None],  # [1, height, width, 3]
        "MASK": across[None],
        "LATENT": {"samples": torch.zeros(shape)},
        "FIRST": {"samples": random(*shape, seed=6)},
        "positive": conditioning(family, 1),
        "negative": conditioning(family, 2),
        "second": conditioning(family, 3),
        "third": conditioning(family, 4),
        "long": conditioning(family, 5, 200),
    }


def apply(use: Use, state: State) -> State:
    """The state after a node, whose outputs take the place of what has their type."""
    kind = core_nodes.NODE_CLASS_MAPPINGS[use.kind]
    inputs = dict(use.inputs)
    to = inputs.pop("to", "positive")
    types = kind.INPUT_TYPES()
    values = {name: state[value.name] if isinstance(value, Given) else value for name, value in inputs.items()}
    for name, (type_, *options) in types.get("required", {}).items():
        if name not in values:
            values[name] = value_of(name, type_, options[0] if options else {}, state)
    if "EXECUTE_NORMALIZED" in kind.FUNCTION:
        made = kind.EXECUTE_NORMALIZED(**values).result
    else:
        made = getattr(kind(), kind.FUNCTION)(**values)
    named = getattr(kind, "RETURN_NAMES", None) or kind.RETURN_TYPES
    after = dict(state)
    for value, type_, name in reversed(list(zip(made, kind.RETURN_TYPES, named, strict=True))):
        if type_ == "CONDITIONING":
            after[name if name in state else to] = value
        else:
            after[type_] = after[name] = value
    return after


def value_of(name: str, type_: Any, options: dict[str, Any], state: State) -> Any:
    """The value of a required input that is not said."""
    if type_ == "CONDITIONING":
        return state[name if name in state else "positive"]
    if isinstance(type_, str) and type_ in state:
        return state[type_]
    if "default" in options:
        return options["default"]
    choices = type_ if isinstance(type_, list) else options["options"]
    return choices[0]


def sampled(combination: Combination, state: State, without: Use | None = None, plain: bool = False) -> Tensor:
    """The latent that a combination makes; without one of its nodes, or sampled plainly."""
    plainly = (Use("KSampler", {"sampler_name": "euler", "scheduler": "simple"}),)
    for use in combination.uses:
        if use is not without:
            state = apply(use, state)
    for use in plainly if plain or not combination.sampling else combination.sampling:
        torch.manual_seed(5)
        if use.kind == "KSampler":
            use = Use(use.kind, {"seed": 7, "steps": combination.steps, "cfg": combination.cfg, **use.inputs})
        state = apply(use, state)
    return state["LATENT"]["samples"]


def has_effect(use: Use) -> bool:
    """Whether a node changes a model, conditioning or latent by itself: others make something for a node after it."""
    return bool({"MODEL", "CONDITIONING", "LATENT"} & set(core_nodes.NODE_CLASS_MAPPINGS[use.kind].RETURN_TYPES))


def differ(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or psnr(one, other) < ACTS


def write_patches(folder: Path, model: Any) -> None:
    """Two LoRAs of some layers of a model, and a hypernetwork for its cross attention."""
    shapes = {
        name.removesuffix(".weight"): x.shape
        for name, x in model.model.diffusion_model.state_dict().items()
        if name.endswith(".weight") and x.ndim == 2 and min(x.shape) >= 32
    }
    layers = sorted(shapes)
    for file, chosen in (("lora", layers[::2]), ("other", layers[1::2])):
        lora = {}
        for layer in chosen:
            lora |= KINDS["PEFT"](f"diffusion_model.{layer}", shapes[layer])
        save_file({name: x.contiguous() for name, x in lora.items()}, folder / f"{file}.safetensors")
    width = BASES["SD15"].text
    layers_of = {f"linear.{n}.weight": 0.3 * random(width, width, seed=n) for n in range(2)}
    layers_of |= {f"linear.{n}.bias": random(width, seed=n) for n in range(2)}
    torch.save({width: (layers_of, layers_of)}, folder / "hyper.pt")


@pytest.fixture
def models(combination: Combination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Our MODEL and ControlNet, and core's."""
    host.start()
    found = list(base_models(BASES[combination.family], tmp_path, "CPU"))
    (patches := tmp_path / "patches").mkdir()
    write_patches(patches, found[1])
    for kind, ending in (("loras", ".safetensors"), ("hypernetworks", ".pt")):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(patches)], {ending}))
        folder_paths.filename_list_cache.pop(kind, None)
    controls: tuple[Any, Any] = (None, None)
    if combination.control:
        (kind_of,) = (kind for kind in CONTROLS if kind.name == combination.control)
        (tmp_path / "control").mkdir()
        controls = pair(kind_of, tmp_path / "control", "CPU", monkeypatch)
    return list(zip(found, controls, strict=True))


def test_a_combination_is_cores_and_every_node_acts(combination: Combination, models: list[tuple[Any, Any]]) -> None:
    ours, core = (given(combination, *each) for each in models)
    if combination.refused:
        *before, last = combination.uses
        for use in before:
            ours = apply(use, ours)
        with pytest.raises(Exception, match=combination.refused):
            apply(last, ours)
        return
    found = sampled(combination, ours)
    expected = sampled(combination, core)
    assert expected.isfinite().all()
    assert psnr(found, expected) >= EQUAL
    for use in filter(has_effect, combination.uses):
        assert differ(sampled(combination, ours, without=use), found), f"{use.kind} has no effect"
    if combination.sampling:
        assert differ(sampled(combination, ours, plain=True), found), "the sampling has no effect"


def test_there_are_a_hundred() -> None:
    assert len({combination.name for combination in COMBINATIONS}) >= 100
