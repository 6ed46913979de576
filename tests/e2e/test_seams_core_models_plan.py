"""A plan of a workflow with a ControlNet, a vision model and an upscaler beside what it then takes, phase by phase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.pack import part

from .core_model_kinds import BASES, BORROWS, PLAIN, UPSCALERS, VISIONS, of, old_name
from .plan_runners import runners_of_plans
from .test_seams_core_models import Frames, node, result_of, written
from .test_seams_plan import DEVICES, ENOUGH, held, planned, taken

client = part("native.client.runner")
core_loaders = part("nodes.loaders.core_models")
diffusion, encoders, vae_nodes = (part(f"nodes.loaders.{name}") for name in ("diffusion", "text_encoders", "vae"))
build = part("nodes.components.build")
weights = part("native.weights")

import comfy.ldm.flux.controlnet  # noqa: E402

import nodes as core  # noqa: E402

MICRO = Path(__file__).parents[1] / "micro" / "models"
MODEL = "flux1-schnell-micro-Q8_0.gguf"
SIZE = 64
PHASES = ("Encoding the prompt", "Sampling", "Decoding the picture", "Enlarging the picture", "CLIPVisionEncode")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A ControlNet of the micro model, an upscaler and a vision model; runners that compute and that plan."""
    for module in (diffusion, encoders, vae_nodes):
        monkeypatch.setattr(module, "model_path", lambda kind, name: str(MICRO / kind / name))
    model, _ = build.diffusion_model(weights.read_header(str(MICRO / "diffusion_models" / MODEL)))
    module = comfy.ldm.flux.controlnet.ControlNetFlux(**{**model.model_config.unet_config, **PLAIN})
    names = {}
    for kind, tensors in {
        "controlnet": lambda: {old_name(name): x for name, x in of(module).items()},
        "upscale_models": UPSCALERS[0].tensors, "clip_vision": VISIONS[0].tensors,
    }.items():  # fmt: skip
        (tmp_path / kind).mkdir()
        names[kind] = written(replace(UPSCALERS[0], folder=kind, tensors=tensors), tmp_path / kind, monkeypatch)
    for place in ("nodes_upscale_model:ImageUpscaleWithModel", "nodes_preview_any:PreviewAny"):
        made = node(f"comfy_extras.{place}")
        monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, place.partition(":")[2], made)
        if hasattr(made, "GET_SCHEMA"):
            made.GET_SCHEMA()
    with runners_of_plans(monkeypatch, ENOUGH >> 12), torch.inference_mode(), VISIONS[0].small():
        yield names


def workflow(files: dict[str, str], device: str, residency: str) -> dict[str, Any]:
    place = {"device": device, "weights": residency, "engine": "ggml", "budget": 0}
    sampler = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    picture = {"class_type": "EmptyImage", "inputs": {"width": SIZE, "height": SIZE, "batch_size": 1, "color": 0}}
    control = {"strength": 0.5, "start_percent": 0.0, "end_percent": 1.0}
    return {
        "1": {"class_type": "GGMLDiffusionModel", "inputs": {"model_name": MODEL, **place}},
        "2": {"class_type": "GGMLTextEncoders",
              "inputs": {"clip_name1": "t5-micro-encoder-Q8_0.gguf",
                         "clip_name2": "clip_l-micro_fp8_e4m3fn.safetensors", **place}},
        "3": {"class_type": "GGMLVAE",
              "inputs": {"vae_name": "ae-micro.safetensors", "tiling": "off", "tile_size": 0, "overlap": 16, **place}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "a red circle"}},
        "5": {"class_type": "GGMLControlNet", "inputs": {"control_net_name": files["controlnet"], **place}},
        "6": picture,
        "7": {"class_type": "ControlNetApplyAdvanced",
              "inputs": {"positive": ["4", 0], "negative": ["4", 0], "control_net": ["5", 0], "image": ["6", 0],
                         **control}},
        "8": {"class_type": "EmptyLatentImage", "inputs": {"width": SIZE, "height": SIZE, "batch_size": 1}},
        "9": {"class_type": "KSampler",
              "inputs": {"model": ["1", 0], "positive": ["7", 0], "negative": ["7", 1], "latent_image": ["8", 0],
                         **sampler}},
        "10": {"class_type": "VAEDecode", "inputs": {"samples": ["9", 0], "vae": ["3", 0]}},
        "11": {"class_type": "GGMLUpscaleModel", "inputs": {"model_name": files["upscale_models"], **place}},
        "12": {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["11", 0], "image": ["10", 0]}},
        "13": {"class_type": "SaveImage", "inputs": {"images": ["12", 0], "filename_prefix": "x"}},
        "14": {"class_type": "GGMLClipVision", "inputs": {"clip_name": files["clip_vision"], **place}},
        "15": {"class_type": "CLIPVisionEncode",
               "inputs": {"clip_vision": ["14", 0], "image": ["12", 0], "crop": "center"}},
        "16": {"class_type": "PreviewAny", "inputs": {"source": ["15", 0]}},
    }  # fmt: skip


def run(prompt: dict[str, Any]) -> Iterator[None]:
    """The workflow's phases in ComfyUI's own nodes; yields after each."""
    inputs = {number: made["inputs"] for number, made in prompt.items()}
    loaders = {
        "1": diffusion.GGMLDiffusionModel, "2": encoders.GGMLTextEncoders, "3": vae_nodes.GGMLVAE,
        "5": part("nodes.loaders.controlnet").GGMLControlNet,
        "11": part("nodes.loaders.upscale_model").GGMLUpscaleModel,
        "14": part("nodes.loaders.clip_vision").GGMLClipVision,
    }  # fmt: skip
    made = {number: loader.execute(**inputs[number]).result[0] for number, loader in loaders.items()}
    (text,) = core.CLIPTextEncode().encode(made["2"], "a red circle")
    yield
    hint = torch.zeros(1, SIZE, SIZE, 3)
    positive, negative = core.ControlNetApplyAdvanced().apply_controlnet(text, text, made["5"], hint, 0.5, 0.0, 1.0)
    latent = {"samples": torch.zeros(1, 16, SIZE // 8, SIZE // 8)}
    (latent,) = core.common_ksampler(made["1"], 1, 2, 1.0, "euler", "simple", positive, negative, latent)
    yield
    (picture,) = core.VAEDecode().decode(made["3"], latent)
    yield
    upscale = node("comfy_extras.nodes_upscale_model:ImageUpscaleWithModel")
    picture = result_of(upscale.execute(made["11"], picture))
    yield
    core.CLIPVisionEncode().encode(made["14"], picture, "center")
    yield


@pytest.mark.turns(2)
@pytest.mark.parametrize(("device", "residency"), [("CPU", "auto"), ("Vulkan0", "device"), ("Vulkan0", "disk")])
def test_planned_is_what_is_taken(files: dict[str, str], device: str, residency: str) -> None:
    prompt = workflow(files, device, residency)
    plan = planned(prompt, ENOUGH >> 12).plan
    assert plan.shortage is None, plan.shortage
    assert plan.notes == ()
    assert [phase.title for phase in plan.phases] == list(PHASES)
    runner = client.shared()
    most = dict.fromkeys(DEVICES, 0)
    for phase, _ in zip(plan.phases, run(prompt), strict=True):
        most = {name: max(most[name], phase.peak[name]) for name in DEVICES}
        memory = runner.memory()
        assert most == {each.name: each.peak for each in memory.devices}
        assert [taken(model) for model in held(phase)] == [taken(model) for model in memory.models]


def test_what_is_moved_is_a_gap_of_the_plan(files: dict[str, str]) -> None:
    """The other loader is not run for a plan, which must not say then that the workflow fits."""
    prompt = workflow(files, "CPU", "auto")
    prompt["20"] = {"class_type": "UNETLoader", "inputs": {"unet_name": MODEL, "weight_dtype": "default"}}
    prompt["21"] = {"class_type": "GGMLMove", "inputs": {"model": ["20", 0], "device": "CPU"}}
    prompt["9"]["inputs"]["model"] = ["21", 0]
    plan = planned(prompt, ENOUGH >> 12).plan
    assert any("GGMLMove (node 21) is not in the plan: what it moves is only known" in gap for gap in plan.gaps)


class Text:
    """A node that makes a conditioning, a latent and a VAE for a small Qwen-Image."""

    FUNCTION, RELATIVE_PYTHON_MODULE = "make", "nodes"
    RETURN_TYPES = ("CONDITIONING", "LATENT", "VAE")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> Any:
        latent = {"samples": torch.zeros(1, 16, 1, SIZE // 8, SIZE // 8)}
        return [[torch.zeros(1, 9, 48), {}]], latent, Frames()


@pytest.mark.turns(2)
@pytest.mark.parametrize(("device", "residency"), [("CPU", "auto"), ("Vulkan0", "device"), ("Vulkan0", "disk")])
def test_layers_of_the_diffusion_model_are_in_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, residency: str
) -> None:
    """Of a ControlNet that computes with them."""
    small = BASES[BORROWS.base]
    save_file({name: x.contiguous() for name, x in small.tensors().items()}, tmp_path / "base.safetensors")
    monkeypatch.setattr(diffusion, "model_path", lambda _kind, name: str(tmp_path / name))
    control_name = written(BORROWS, tmp_path, monkeypatch)
    preview = node("comfy_extras.nodes_preview_any:PreviewAny")
    for name, each in {"Text": Text, "PreviewAny": preview}.items():
        monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, name, each)
    place = {"device": device, "weights": residency, "engine": "ggml", "budget": 0}
    model, control = {"model_name": "base.safetensors", **place}, {"control_net_name": control_name, **place}
    sampler = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    apply = {"strength": 0.5, "start_percent": 0.0, "end_percent": 1.0}
    prompt = {
        "1": {"class_type": "GGMLDiffusionModel", "inputs": model},
        "2": {"class_type": "GGMLControlNet", "inputs": control},
        "3": {"class_type": "Text", "inputs": {}},
        "4": {"class_type": "EmptyImage", "inputs": {"width": SIZE, "height": SIZE, "batch_size": 1, "color": 0}},
        "5": {"class_type": "ControlNetApplyAdvanced",
              "inputs": {"positive": ["3", 0], "negative": ["3", 0], "control_net": ["2", 0], "image": ["4", 0],
                         "vae": ["3", 2], **apply}},
        "6": {"class_type": "KSampler",
              "inputs": {"model": ["1", 0], "positive": ["5", 0], "negative": ["5", 1], "latent_image": ["3", 1],
                         **sampler}},
        "7": {"class_type": "PreviewAny", "inputs": {"source": ["6", 0]}},
    }  # fmt: skip
    with runners_of_plans(monkeypatch, ENOUGH >> 12), torch.inference_mode(), BORROWS.small():
        plan = planned(prompt, ENOUGH >> 12).plan
        assert plan.shortage is None, plan.shortage
        assert plan.notes == ()
        (phase,) = plan.phases
        ours = diffusion.GGMLDiffusionModel.execute(**model).result[0]
        net = part("nodes.loaders.controlnet").GGMLControlNet.execute(**control).result[0]
        text, latent, vae = Text().make()
        hint = torch.zeros(1, SIZE, SIZE, 3)
        given = core.ControlNetApplyAdvanced().apply_controlnet(text, text, net, hint, 0.5, 0.0, 1.0, vae)
        core.common_ksampler(ours, 1, 2, 1.0, "euler", "simple", *given, latent)
        memory = client.shared().memory()
        assert {name: phase.peak[name] for name in DEVICES} == {each.name: each.peak for each in memory.devices}
        assert [taken(each) for each in held(phase)] == [taken(each) for each in memory.models]
