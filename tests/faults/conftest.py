"""One ComfyUI server with small random models, for what can go wrong over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import comfy_server, random_models
from tests.comfy_server import Client, Workflow, changed, workflow
from tests.faults.loaders import FOLDERS

SMALL = {"hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of model folders with a whole file of every kind and format."""
    folder = tmp_path_factory.mktemp("models")
    for name in (*FOLDERS.values(), "loras"):
        (folder / name).mkdir()
    kinds = {
        "diffusion_models": {"flux": random_models.flux(**SMALL)},
        "text_encoders": {"t5": random_models.t5(), "clip": random_models.clip_l()},
        "vae": {"vae": random_models.vae()},
    }
    for where, files in kinds.items():
        for name, tensors in files.items():
            random_models.write_gguf(folder / where / f"{name}.gguf", name, tensors)
            random_models.write_safetensors(folder / where / f"{name}.safetensors", tensors)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's own folder."""
    return tmp_path_factory.mktemp("comfyui")


@pytest.fixture(scope="session")
def comfyui(base: Path, models: Path) -> Iterator[Client]:
    """The server."""
    with comfy_server.running(base, models) as client:
        yield client


@pytest.fixture(scope="session")
def good() -> Workflow:
    """A workflow that draws a small picture with the whole files, in one step."""
    return changed(
        workflow("text_to_image"),
        {
            "GGMLDiffusionModel": {"model_name": "flux.gguf", "device": "CPU"},
            "GGMLTextEncoders": {"clip_name1": "t5.gguf", "clip_name2": "clip.gguf"},
            "GGMLVAE": {"vae_name": "vae.gguf"},
            "EmptySD3LatentImage": {"width": 64, "height": 64},
            "KSampler": {"steps": 1},
        },
    )
