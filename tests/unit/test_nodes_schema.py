"""The nodes as ComfyUI registers and validates them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pack import load, part

extension = part("nodes.extension")
host = part("nodes.components.host")
client = part("native.client")

import execution  # noqa: E402

import nodes as core_nodes  # noqa: E402

Prompt = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Our nodes in core's table, and a model folder with one file of each kind."""
    import folder_paths

    folders = {}
    for folder in ("diffusion_models", "text_encoders", "vae", "checkpoints", "LLM"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.gguf").write_bytes(b"GGUF")
        folders[folder] = ([str(tmp_path / folder)], {".safetensors"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    part("nodes.loaders.files").register_folders()
    found = {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.GGMLExtension().get_node_list())}
    for name, node in found.items():
        monkeypatch.setitem(core_nodes.NODE_CLASS_MAPPINGS, name, node)
    return found


@pytest.fixture
def no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a CPU alone."""

    class Machine:
        def devices(self) -> list[Any]:
            return [client.Device("CPU", "a processor", "CPU", 1, 1, 1, ())]

    monkeypatch.setattr(host, "shared", Machine)
    monkeypatch.setattr(host.COMFYUI, "device_names", [])


def errors(class_type: str, **inputs: Any) -> list[str]:
    prompt: Prompt = {"1": {"class_type": class_type, "inputs": inputs}}
    valid, found, _ = asyncio.run(execution.validate_inputs("p", prompt, "1", {}))
    assert valid == (not found)
    return [error["details"] for error in found]


TILES = {"tiling": "auto", "tile_size": 0, "overlap": 64}
RESIDENCY = {"weights": "auto", "budget": 0, "engine": "auto"}
LANGUAGE_MODEL = {
    "model_name": "model.gguf", "device": "CPU", "layers": -1, "context": 512, "threads": 0, "after_use": "keep",
}  # fmt: skip
SERVER = {"url": "http://127.0.0.1:8080/v1", "model": "", "key_variable": "", "timeout": 10}
VAE = {"vae_name": "model.gguf", "device": "CPU", "tiling": "auto", "tile_size": 512, "overlap": 64}
CHECKPOINT = {"ckpt_name": "model.gguf", "device": "auto", "clip_device": "CPU", "vae_device": "CPU"}


def test_ids_and_outputs_stay(registered: dict[str, Any]) -> None:
    assert {name: node.RETURN_TYPES for name, node in registered.items()} == {
        "GGMLDiffusionModel": ["MODEL"],
        "GGMLTextEncoders": ["CLIP"],
        "GGMLVAE": ["VAE"],
        "GGMLCheckpoint": ["MODEL", "CLIP", "VAE", "CLIP_VISION"],
        "GGMLControlNet": ["CONTROL_NET"],
        "GGMLClipVision": ["CLIP_VISION"],
        "GGMLUpscaleModel": ["UPSCALE_MODEL"],
        "GGMLLatentUpscaleModel": ["LATENT_UPSCALE_MODEL"],
        "GGMLModelPatch": ["MODEL_PATCH"],
        "GGMLAudioEncoder": ["AUDIO_ENCODER"],
        "GGMLBackgroundRemoval": ["BACKGROUND_REMOVAL"],
        "GGMLMoGeModel": ["MOGE_MODEL"],
        "GGMLDepthAnything3": ["DA3_MODEL"],
        "GGMLFrameInterpolation": ["INTERP_MODEL"],
        "GGMLOpticalFlow": ["OPTICAL_FLOW"],
        "GGMLMove": ["COMFY_MATCHTYPE_V3"],
        "GGMLLanguageModel": ["GGML_LLM"],
        "GGMLLanguageServer": ["GGML_LLM"],
        "GGMLPromptExpander": ["STRING"] * 4,
        "GGMLChat": ["STRING", "STRING"],
        "GGMLMemoryPlanner": ["STRING", "IMAGE", "MODEL", "CLIP", "VAE"],
        "GGMLDevices": ["STRING"],
        "GGMLCardCheck": ["STRING", "STRING"],
    }


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("GGMLDiffusionModel", {"device": "auto"}),
        (
            "GGMLTextEncoders",
            {"device": "CPU", "clip_name2": "none", "clip_name3": "none", "type": "auto", "clip_name4": "none"},
        ),
        ("GGMLVAE", {"device": "CPU", **TILES}),
        ("GGMLControlNet", {"device": "auto"}),
        ("GGMLClipVision", {"device": "CPU"}),
        ("GGMLUpscaleModel", {"device": "auto"}),
        ("GGMLLatentUpscaleModel", {"device": "auto"}),
        ("GGMLModelPatch", {"device": "auto"}),
        ("GGMLAudioEncoder", {"device": "CPU"}),
        ("GGMLBackgroundRemoval", {"device": "auto"}),
        ("GGMLMoGeModel", {"device": "auto"}),
        ("GGMLDepthAnything3", {"device": "auto"}),
        ("GGMLFrameInterpolation", {"device": "auto"}),
        ("GGMLOpticalFlow", {"device": "auto"}),
        ("GGMLMove", {"device": "auto"}),
        (
            "GGMLCheckpoint",
            {"device": "auto", "clip_device": "CPU", "vae_device": "CPU", "clip_weights": "auto", "vae_weights": "auto"}
            | TILES,
        ),
    ],
)
def test_defaults_of_loaders(registered: dict[str, Any], name: str, defaults: dict[str, Any]) -> None:
    assert defaults_of(registered[name]) == defaults | RESIDENCY


def test_defaults_of_the_planner(registered: dict[str, Any]) -> None:
    assert defaults_of(registered["GGMLMemoryPlanner"]) == {
        "mode": "reject", "gpu_budget": 0, "ram_budget": 0, "hardware": "this machine", "unknown_width": 0,
        "unknown_height": 0, "unknown_batch": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        (
            "GGMLLanguageModel",
            {"device": "CPU", "layers": -1, "context": 4096, "threads": 0, "after_use": "release", "projector": "none"},
        ),
        (
            "GGMLLanguageServer",
            {"url": "http://127.0.0.1:8080/v1", "model": "", "key_variable": "", "timeout": 120}
            | {"after_use": "release"},
        ),
        (
            "GGMLPromptExpander",
            {
                "idea": "", "style": "none", "target": "FLUX schnell", "length": "medium", "must_keep": "", "seed": 0,
                "temperature": 0.7, "on_failure": "stop", "own_style": "",
            },
        ),
        ("GGMLChat", {"system": "", "text": "", "seed": 0, "temperature": 0.7, "max_tokens": 512}),
    ],
)  # fmt: skip
def test_defaults_of_language_nodes(registered: dict[str, Any], name: str, defaults: dict[str, Any]) -> None:
    assert defaults_of(registered[name]) == defaults


def defaults_of(node: Any) -> dict[str, Any]:
    inputs = node.INPUT_TYPES()
    every = inputs["required"] | inputs.get("optional", {})
    return {key: every[key][1].get("default") for key in every if "default" in every[key][1]}


def test_every_input_that_is_not_obvious_has_a_tooltip(registered: dict[str, Any]) -> None:
    for node in registered.values():
        info = node.GET_NODE_INFO_V1()
        assert info["description"]
        assert "Vulkan" in info["search_aliases"]
        for kind in ("required", "optional"):
            for name, (_, options) in info["input"].get(kind, {}).items():
                assert name == "vae_name" or options["tooltip"]


def test_valid_inputs_pass(no_runner: None) -> None:
    assert errors("GGMLDiffusionModel", model_name="model.gguf", device="auto") == []
    assert errors("GGMLTextEncoders", clip_name1="model.gguf", device="CPU") == []
    assert errors("GGMLTextEncoders", clip_name1="model.gguf", device="CPU", weights="device") == []
    assert errors("GGMLVAE", **VAE) == []
    assert errors("GGMLCheckpoint", **CHECKPOINT) == []
    assert errors("GGMLCheckpoint", **CHECKPOINT, engine="torch", tile_size=256) == []
    assert errors("GGMLMemoryPlanner", mode="reject", gpu_budget=0, ram_budget=0) == []
    assert errors("GGMLDevices") == []
    assert errors("GGMLCardCheck") == errors("GGMLCardCheck", device="CPU", extent="full") == []
    assert errors("GGMLLanguageModel", **LANGUAGE_MODEL) == []
    assert errors("GGMLLanguageServer", **SERVER) == []


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("GGMLDiffusionModel", {"model_name": "model.gguf"}),
        ("GGMLTextEncoders", {"clip_name1": "model.gguf"}),
        ("GGMLVAE", VAE),
        ("GGMLLanguageModel", LANGUAGE_MODEL),
    ],
)
def test_device_of_another_machine_is_named(no_runner: None, name: str, inputs: dict[str, Any]) -> None:
    found = errors(name, **{**inputs, "device": "Vulkan7"})
    assert found[0] == (
        "device - This machine has no device Vulkan7. It has: CPU (a processor). Choose one of them, or auto."
    )


@pytest.mark.parametrize("name", ["device", "clip_device", "vae_device"])
def test_each_device_of_a_checkpoint_is_checked(no_runner: None, name: str) -> None:
    assert "This machine has no device Vulkan7." in errors("GGMLCheckpoint", **{**CHECKPOINT, name: "Vulkan7"})[0]


def test_file_that_is_gone_is_named(no_runner: None) -> None:
    assert "model_name: 'gone.gguf' not in" in errors("GGMLDiffusionModel", model_name="gone.gguf", device="CPU")[0]


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (500, 64, "tile_size is 500 pixels, but must be a multiple of 8: 496 is the nearest"),
        (512, 60, "overlap is 60 pixels, but must be a multiple of 8: 64 is the nearest"),
        (56, 8, "tile_size is 56 pixels; the smallest tile is 64"),
        (0, 264, "overlap is 264 pixels; with a tile_size of 0 it can be 0 to 256"),
        (128, 128, "overlap is 128 pixels; with a tile_size of 128 it can be 0 to 64"),
        (128, -8, "overlap is -8 pixels; with a tile_size of 128 it can be 0 to 64"),
    ],
)
def test_tiles_that_cannot_be_cut(no_runner: None, tile: int, overlap: int, message: str) -> None:
    tiles = {"tile_size": tile, "overlap": overlap}
    for node, inputs in (("GGMLVAE", VAE), ("GGMLCheckpoint", CHECKPOINT)):
        assert any(message in error for error in errors(node, **{**inputs, **tiles}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "127.0.0.1:8080"}, "is not a server address"),
        ({"url": "http://me:sk-secret@h/v1"}, "has a name or password in it"),
        ({"key_variable": "sk-secret"}, "takes the name of an environment variable, not the key itself"),
        ({"key_variable": "GGML_LLM_NOT_SET"}, "GGML_LLM_NOT_SET is not set"),
    ],
)
def test_servers_that_cannot_be_asked(changes: dict[str, Any], message: str) -> None:
    found = errors("GGMLLanguageServer", **{**SERVER, **changes})
    assert message in found[0]
    assert "sk-secret" not in "".join(found)


def test_linked_inputs_are_left_to_execution(no_runner: None) -> None:
    node = core_nodes.NODE_CLASS_MAPPINGS["GGMLVAE"]
    assert asyncio.run(node.validate_inputs(device=None, tile_size=None, overlap=64)) is True


def test_importing_the_pack_starts_no_runner_and_loads_no_ggml() -> None:
    before = set(sys.modules)
    load("another_pack")
    assert sys.modules["another_pack.native.client.runner"]._shared is None
    assert not {"ggml", "xllamacpp"} & (set(sys.modules) - before)
    assert sys.modules["another_pack.native.llm.server_lifetime"].running() is None
