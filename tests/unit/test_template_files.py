"""Files of official templates: each has a row, and its header is of the model that core takes it for."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from tests.templates import files, packages, planning
from tests.templates.encoders import ENCODERS
from tests.templates.storage import storage_of
from tests.templates.stratified import STRATIFIED

import comfy.model_detection  # isort: skip
import comfy.sd  # isort: skip


@pytest.fixture(scope="module")
def named() -> list[packages.Template]:
    return packages.templates(packages.installed())


def test_files_have_rows(named: list[packages.Template]) -> None:
    missing = set()
    for folder, name in {file for template in named for file in template.files}:
        try:
            files.row_of(folder, name)
        except files.NoStructure:
            missing.add(f"{folder}/{name}")
    assert not missing, sorted(missing)


def test_stratified_templates_are_there(named: list[packages.Template]) -> None:
    assert set(STRATIFIED) <= {template.name for template in named}
    assert len(set(STRATIFIED)) == 25


def test_a_model_and_its_adapter_are_told_apart() -> None:
    assert files.row_of("loras", "qwen_image_edit_2511-x.safetensors").parts[0].rank
    assert not files.row_of("diffusion_models", "qwen_image_edit_2511_bf16.safetensors").parts[0].rank
    assert len(files.row_of("checkpoints", "flux1-dev-fp8.safetensors").parts) == 4
    assert len(files.row_of("diffusion_models", "flux1-dev-fp8.safetensors").parts) == 1


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "FP8 scaled"), ("z_image_bf16.safetensors", "BF16"),
        ("z_image_int8_convrot.safetensors", "INT8 ConvRot"), ("gemma_3_12B_it_fp4_mixed.safetensors", "NVFP4"),
        ("qwen_image_fp8_e4m3fn.safetensors", "FP8"), ("t5xxl_fp16.safetensors", "F16"),
    ],
)  # fmt: skip
def test_names_tell_the_storage(name: str, stored: str) -> None:
    assert storage_of(name) == stored


def test_core_takes_a_header_for_the_model(tmp_path: Path) -> None:
    name = "z_image_turbo_int8_convrot.safetensors"
    missing = files.write_hollow(tmp_path, (("diffusion_models", name), ("loras", "no_such_thing.safetensors")))
    assert list(missing) == ["no_such_thing.safetensors"]
    path = tmp_path / "diffusion_models" / name
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    assert path.stat().st_blocks * 512 < 1 << 24 < path.stat().st_size  # a hole
    assert length < 1 << 20
    held = files.hollow("diffusion_models", name).tensors
    shapes = {key: torch.empty(shape, device="meta") for key, (_, shape) in held.items()}
    config = comfy.model_detection.model_config_from_unet(shapes, "")
    assert type(config).__name__ == "ZImage"
    assert config.unet_config["n_layers"] == 30


def test_core_tells_the_encoders_apart() -> None:
    def kind(name: str) -> str:
        shapes = {key: torch.empty(shape, device="meta") for key, shape in ENCODERS[name].shapes().items()}
        return str(comfy.sd.detect_te_model(shapes).name)

    assert kind("Qwen2.5-VL 7B") == "QWEN25_7B"
    assert kind("Gemma 3 12B") == "GEMMA_3_12B"
    assert kind("Mistral Small 24B") == "MISTRAL3_24B_PRUNED_FLUX2"


def test_files_that_the_prompt_alone_names_are_where_others_of_that_loader_are() -> None:
    node = {
        "type": "UNETLoader",
        "properties": {"models": [{"directory": "diffusion_models", "name": "a.safetensors"}]},
    }
    template = packages.Template("t", {"nodes": [node]}, (("diffusion_models", "a.safetensors"),))
    prompt = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "b.safetensors", "weight_dtype": "default"}},
        "2": {"class_type": "UNETLoader", "inputs": {"unet_name": "a.safetensors"}},
        "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "c.safetensors"}},
    }
    named = [("diffusion_models", "a.safetensors"), ("diffusion_models", "b.safetensors")]
    assert list(template.files_of(prompt)) == named


def test_what_a_template_without_an_output_ends_in_is_shown() -> None:
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "VAELoader", "inputs": {}},
    }
    shown = {"shown 2": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}}}
    assert planning.with_output(prompt) == prompt | shown
    saved = prompt | {"4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}
    assert planning.with_output(saved) == saved


def test_what_is_wrong_names_no_folder_of_one_machine(tmp_path: Path) -> None:
    result = planning.Result("a", why=[f"{tmp_path / 'real' / 'a.gguf'} is damaged", "no model of it"])
    result.leave_out(tmp_path)
    assert result.why == [f"{Path('real') / 'a.gguf'} is damaged", "no model of it"]
