"""Our loaders of ControlNets, vision models, upscalers and their kin against core's, on the same small files."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import core_models
from tests.conftest import SIXTHS
from tests.pack import part

from .any_diffusion import Small
from .core_model_kinds import BASES, BORROWS, CONTROLS, LATENTS, SOUNDS, TAKES, UPSCALERS, VISIONS, CoreKind
from .test_seams_any_diffusion import sampled

loader = part("nodes.loaders.diffusion")
weights = part("native.weights")
core_module = part("nodes.components.core_module")

import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402

import nodes as core_nodes  # noqa: E402

BOUND = 1e-3  # relative L2
DEVICES = ("CPU", "Vulkan0")
ON_VULKAN = ("SD1.5", "FLUX.1 (XLabs)", "ESRGAN", "CLIP", "HunyuanVideo 1.5")
ALL = (*CONTROLS, *UPSCALERS, *LATENTS, *VISIONS, *SOUNDS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One on Vulkan; on the CPU the sixth whose turn it is and the first of each sort, or all."""
    if "kind" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    turn = ALL if option("--all") else ALL[option("--sample") % SIXTHS :: SIXTHS]
    cases = [(kind, "CPU") for kind in ALL if kind in turn or kind.name in ON_VULKAN]
    on_vulkan = ON_VULKAN if option("--all") else (ON_VULKAN[option("--sample") % len(ON_VULKAN)],)
    cases += [(kind, "Vulkan0") for kind in ALL if kind.name in on_vulkan]
    metafunc.parametrize(("kind", "device"), cases, ids=[f"{kind.name}-{device}" for kind, device in cases])


def node(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def result_of(made: Any) -> Any:
    made = getattr(made, "result", made)
    return made[0]


def written(kind: CoreKind, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a file of that kind, in the folder where both loaders look."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, kind.folder, ([str(folder)], {".safetensors", ".pth"}))
    folder_paths.filename_list_cache.pop(kind.folder, None)
    tensors = {name: x.to(kind.dtype) if x.is_floating_point() else x for name, x in kind.tensors().items()}
    path = folder / f"model{kind.ending}"
    if kind.ending == ".pth":
        torch.save(tensors, path)
    else:
        save_file({name: x.contiguous() for name, x in tensors.items()}, path, dict(kind.metadata))
    return path.name


def pair(kind: CoreKind, folder: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Our model of a file, and core's."""
    name = written(kind, folder, monkeypatch)
    module, _, class_name = kind.ours.partition(":")
    ours = getattr(part(f"nodes.loaders.{module}"), class_name)
    core = node(kind.core)
    with kind.small(), torch.inference_mode():
        found = ours.execute(**{kind.file: name}, device=device, engine="ggml" if device == "CPU" else "auto").result[0]
        function = getattr(core, core.FUNCTION)
        given = (name, *kind.more)
        expected = result_of(function(*given) if hasattr(core, "GET_SCHEMA") else function(core(), *given))
    assert type(found).__name__ in (type(expected).__name__, "ComponentPatcher")
    assert [each.engine_model.placement.device for each in core_module.component_parts(found)] == [device]
    return found, expected


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert expected.isfinite().all()
    assert expected.norm() > 0
    return core_models.relative_error(found.float(), expected.float())


def picture(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(4))


def controlled(patcher: Any, small: Small, control: Any, vae: Any = None) -> torch.Tensor:
    """Two steps with a ControlNet, applied by core's node."""

    def apply(conditioning: Any) -> Any:
        node = core_nodes.ControlNetApplyAdvanced()
        return node.apply_controlnet(conditioning, conditioning, control, picture(64, 96), 0.8, 0.0, 1.0, vae)[0]

    return sampled(patcher, small, apply)


def base_models(small: Small, folder: Path, device: str) -> tuple[Any, Any]:
    tensors = small.tensors()
    save_file({name: x.contiguous() for name, x in tensors.items()}, folder / "base.safetensors", small.metadata)
    with small.detection():
        core = core_models.core_model(tensors, small.metadata)
        return loader.load_diffusion(weights.read_header(str(folder / "base.safetensors")), device), core


def compute(kind: CoreKind, model: Any) -> torch.Tensor:
    """The result of core's nodes with a model, as one tensor."""
    with torch.inference_mode():
        if kind in UPSCALERS:
            return result_of(
                node("comfy_extras.nodes_upscale_model:ImageUpscaleWithModel").execute(model, picture(24, 40))
            )
        if kind in CONTROLS:  # one that sees the hint alone
            made = model.copy().set_cond_hint(picture(64, 96).movedim(-1, 1))
            control = made.get_control(torch.zeros(1, 4, 8, 12), torch.ones(1), {}, 1, {})
            return torch.cat([x.flatten() for x in control["input"] if x is not None])
        if kind in VISIONS:
            output = core_nodes.CLIPVisionEncode().encode(model, picture(70, 60), "center")[0]
            outputs = (output.last_hidden_state, output.penultimate_hidden_states, output.image_embeds)
            return torch.cat([x.flatten().float() / x.float().norm() for x in outputs])
        if kind in SOUNDS:
            sound = {
                "waveform": torch.rand(1, 2, 8000, generator=torch.Generator().manual_seed(3)),
                "sample_rate": 16000,
            }
            output = result_of(node("comfy_extras.nodes_audio_encoder:AudioEncoderEncode").execute(model, sound))
            return torch.cat([output["encoded_audio"][None], *(x[None] for x in output["encoded_audio_all_layers"])])
        latents = torch.randn(1, 8, 2, 6, 8, generator=torch.Generator().manual_seed(2))
        if hasattr(model, "resample_latent"):
            return model.resample_latent(latents)
        return model.model(latents)


CONTROL_LORA = {"lora_controlnet": torch.zeros(1), "input_hint_block.0.weight": torch.zeros(16, 3, 3, 3)}


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        (CONTROL_LORA, "Control-LoRA"),
        ({"some.weight": torch.zeros(4, 4)}, "nor any model known here"),
        ({"lora.lora_down.weight": torch.zeros(4, 4)}, "a LoRA, not a ControlNet"),
    ],
)
def test_what_is_no_control_model_is_named(
    tensors: dict[str, torch.Tensor], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = written(replace(CONTROLS[0], tensors=lambda: tensors), tmp_path, monkeypatch)
    with pytest.raises(weights.WeightFileError, match=why):
        part("nodes.loaders.controlnet").GGMLControlNet.execute(control_net_name=name, device="CPU")


def test_a_control_model_of_pythons_pickle_is_refused_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = written(replace(CONTROLS[0], tensors=lambda: CONTROL_LORA, ending=".pth"), tmp_path, monkeypatch)
    with pytest.raises(weights.WeightFileError, match="Control-LoRA"):
        part("nodes.loaders.controlnet").GGMLControlNet.execute(control_net_name=name, device="CPU")


def test_computes_as_core(kind: CoreKind, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, core = pair(kind, tmp_path, device, monkeypatch)
    if not kind.base:
        assert apart(compute(kind, ours), compute(kind, core)) <= BOUND
        return
    small = BASES[kind.base]
    our_base, core_base = base_models(small, tmp_path, device)
    expected, without = controlled(core_base, small, core), sampled(core_base, small)
    assert apart(without, expected) > 10 * BOUND  # it acts visibly
    assert apart(controlled(our_base, small, ours), expected) <= BOUND


class Latents:
    """A VAE of SD3's size, for hints."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, ::8, ::8, :1].movedim(-1, 1).repeat(1, 16, 1, 1)

    def spacial_compression_encode(self) -> int:
        return 8


def test_a_control_model_takes_a_layer_of_the_diffusion_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, core = pair(TAKES, tmp_path, "CPU", monkeypatch)
    small = BASES[TAKES.base]
    our_base, core_base = base_models(small, tmp_path, "CPU")
    expected, without = controlled(core_base, small, core, Latents()), sampled(core_base, small)
    assert apart(without, expected) > 10 * BOUND
    assert apart(controlled(our_base, small, ours, Latents()), expected) <= BOUND


class Frames(Latents):
    """A VAE of Wan's kind, for hints."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().encode(pixels).unsqueeze(2)


@pytest.mark.parametrize(("device", "base"), [("CPU", "CPU"), ("Vulkan0", "Vulkan0"), ("CPU", "Vulkan0")])
def test_a_control_model_computes_with_layers_of_the_diffusion_model(
    device: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by its own model, with what nodes have changed there, as a LoRA."""
    ours, core = pair(BORROWS, tmp_path, device, monkeypatch)
    small = replace(BASES[BORROWS.base], latent=(1, 8, 12))
    our_base, core_base = base_models(small, tmp_path, base)
    expected, without = controlled(core_base, small, core, Frames()), sampled(core_base, small)
    assert apart(without, expected) > 10 * BOUND
    assert apart(controlled(our_base, small, ours, Frames()), expected) <= BOUND
    lora = {"diffusion_model.img_in.lora_up.weight": 0.2 * torch.ones(128, 2),
            "diffusion_model.img_in.lora_down.weight": 0.2 * torch.ones(2, 64)}  # fmt: skip
    with torch.inference_mode():
        (our_changed, core_changed) = (comfy.sd.load_lora_for_models(each, None, lora, 1.0, 0.0)[0]
                                       for each in (our_base, core_base))  # fmt: skip
    changed = controlled(core_changed, small, core, Frames())
    assert apart(expected, changed) > 10 * BOUND
    assert apart(controlled(our_changed, small, ours, Frames()), changed) <= BOUND


class Gain(torch.nn.Module):
    """A model with a method that torch's modules have with another meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(32, 32)

    def apply(self, x: torch.Tensor, factor: float) -> torch.Tensor:  # type: ignore[override]
        return self.mix(x) * factor

    def largest(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.mix(x)
        return y.argmax(-1), y > 0


def test_a_model_is_what_core_takes_it_for() -> None:
    """Its class, its methods and its layers, each computed by the engine."""
    torch.manual_seed(1)
    real, x = Gain(), torch.randn(2, 32)
    core, held = part("nodes.components.memory_weights").module_in_memory(real, "a model")
    ours = core_module.CoreModule(core, held, part("native.placement").Placement("CPU"))
    assert isinstance(ours, Gain)
    assert isinstance(ours, core_module.CoreModule)
    assert ours.mix.in_features == 32
    with torch.inference_mode():
        assert apart(ours.apply(x, 3.0), real.apply(x, 3.0)) <= BOUND
        assert apart(ours.mix(x), real.mix(x)) <= BOUND
        for found, expected in zip(ours.largest(x), real.largest(x), strict=True):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
    with pytest.raises(NotImplementedError, match="reaches into the model for its layer mix"):
        ours.mix.register_forward_hook(print)
    with pytest.raises(NotImplementedError, match="reaches into the model for its layer mix"):
        ours.mix.bias = None


class Marking(torch.nn.Linear):
    """Notes of each call what MiniMax's text encoder notes of its tokens, for whoever called it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        marks = torch.ones(len(x), dtype=torch.long)
        marks[1:2] = 0
        self.marks = marks
        return super().forward(x)


def test_marks_that_a_model_notes_can_be_read() -> None:
    real = Marking(4, 3).requires_grad_(False)
    core, held = part("nodes.components.memory_weights").module_in_memory(real, "a model")
    ours = core_module.CoreModule(core, held, part("native.placement").Placement("CPU"))
    for length in (3, 5, 3):
        x = torch.randn(length, 4)
        assert apart(ours(x), real(x)) <= BOUND
        assert torch.equal(ours.marks, real.marks)
