"""Model files that are none, through a real server: the loader node says what is wrong with which file."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from PIL import Image

from tests.comfy_server import Client, JobFailed, Refused, Workflow, changed, eventually, node_id
from tests.faults.loaders import FOLDERS, is_paragraph

LOADERS = {  # class of loader -> its input, and a whole file for it
    "GGMLDiffusionModel": ("model_name", "flux"),
    "GGMLTextEncoders": ("clip_name1", "t5"),
    "GGMLVAE": ("vae_name", "vae"),
}
FORMATS = ("gguf", "safetensors")
SEEDS = count(1000)  # a picture that ComfyUI remembers would prove nothing


@pytest.fixture
def refusal(comfyui: Client, models: Path, good: Workflow) -> Callable[[str, str, bytes], str]:
    """refusal(class of loader, file's name, content): what the loader says of a file; everything works afterwards."""

    def ask(loader: str, name: str, content: bytes) -> str:
        path = models / FOLDERS[loader] / name
        path.write_bytes(content)
        try:
            eventually(lambda: name in str(comfyui.get(f"/object_info/{loader}")), name)
            with pytest.raises(JobFailed) as failure:
                comfyui.run(changed(good, {loader: {LOADERS[loader][0]: name}}))
        finally:
            path.unlink()
        assert failure.value.node == node_id(good, loader)
        message = failure.value.message.strip()
        assert is_paragraph(message), message
        assert str(path) in message
        comfyui.get("/system_stats")
        assert comfyui.draw(changed(good, {"KSampler": {"seed": next(SEEDS)}})).shape == (64, 64, 3)
        return message

    return ask


Refusal = Callable[[str, str, bytes], str]


@pytest.mark.parametrize("loader", LOADERS)
def test_missing(comfyui: Client, good: Workflow, loader: str) -> None:
    with pytest.raises(Refused) as refused:
        comfyui.run(changed(good, {loader: {LOADERS[loader][0]: "gone.gguf"}}))
    assert "gone.gguf" in refused.value.said(node_id(good, loader))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("loader", LOADERS)
def test_empty(refusal: Refusal, loader: str, kind: str) -> None:
    assert "empty" in refusal(loader, f"empty.{kind}", b"")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("part", [0.001, 0.7])
def test_truncated(refusal: Refusal, models: Path, loader: str, kind: str, part: float) -> None:
    """In the header, and in the data."""
    content = (models / FOLDERS[loader] / f"{LOADERS[loader][1]}.{kind}").read_bytes()
    said = refusal(loader, f"truncated.{kind}", content[: int(part * len(content))])
    assert "download or copy it again" in said


@pytest.mark.parametrize("loader", LOADERS)
def test_a_picture_by_the_name_of_a_model(refusal: Refusal, tmp_path: Path, loader: str) -> None:
    Image.effect_noise((256, 256), 50).save(tmp_path / "picture.png")
    assert "GGUF" in refusal(loader, "picture.gguf", (tmp_path / "picture.png").read_bytes())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("loader", "given", "told"),
    [
        ("GGMLDiffusionModel", "text_encoders/t5", "seems to be a text encoder (T5_BASE)"),
        ("GGMLTextEncoders", "vae/vae", "seems to be a VAE"),
        ("GGMLVAE", "diffusion_models/flux", "seems to be a diffusion model (FluxSchnell)"),
    ],
)
def test_another_kind_of_model(refusal: Refusal, models: Path, loader: str, given: str, told: str, kind: str) -> None:
    assert told in refusal(loader, f"other.{kind}", (models / f"{given}.{kind}").read_bytes())


def test_the_same_encoder_twice(comfyui: Client, good: Workflow) -> None:
    with pytest.raises(JobFailed, match="T5_BASE and T5_BASE do not say which model") as failure:
        comfyui.run(changed(good, {"GGMLTextEncoders": {"clip_name2": "t5.safetensors"}}))
    assert failure.value.node == node_id(good, "GGMLTextEncoders")
