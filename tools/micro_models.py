"""The templates with the micro models in place of the files of FLUX.1 that they name."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import language_model
from .workflow import Workflow

INSTEAD = {
    "flux1-schnell-Q4_K_S.gguf": "flux1-schnell-micro-F16.gguf",
    "t5-v1_1-xxl-encoder-Q8_0.gguf": "t5-micro-encoder-Q8_0.gguf",
    "clip_l.safetensors": "clip_l-micro_fp8_e4m3fn.safetensors",
    "ae.safetensors": "ae-micro.safetensors",
    "your-flux-lora.safetensors": "pink-lora-micro.safetensors",
    "Qwen3-4B-Instruct-2507-Q4_K_M.gguf": language_model.NAME,
}
# The files of templates that no micro model stands for: ComfyUI fixes the sizes of their encoders.
ONLY_REAL = {
    "ace_step_song": ("ace_step_v1_3.5b.safetensors",),
    "checkpoint_sdxl": ("sd_xl_base_1.0.safetensors",),
    "qwen_image_edit": (
        "qwen_image_edit_2511_fp8mixed.safetensors", "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "qwen_image_vae.safetensors", "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors",
    ),
    "wan2_2_5b_video": (
        "wan2.2_ti2v_5B_fp16.safetensors", "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan2.2_vae.safetensors",
    ),
    "z_image_turbo": ("z_image_turbo_int8_convrot.safetensors", "qwen_3_4b_fp8_mixed.safetensors"),
}  # fmt: skip
SIDE = 128  # pixels that they were trained to draw
IDEA = "a red circle on a blue background"  # of what they were trained to draw
_SIZE, _EXPANDER = "EmptySD3LatentImage", "GGMLPromptExpander"


def with_micro_models(workflow: Workflow) -> Workflow:
    """A copy of a workflow in API format; what the random language model writes is no prompt, so the idea is kept."""
    result = copy.deepcopy(workflow)
    for node in result.values():
        inputs = node["inputs"]
        inputs.update({name: INSTEAD[value] for name, value in inputs.items() if str(value) in INSTEAD})
        if node["class_type"] == _SIZE:
            inputs.update(width=SIDE, height=SIDE)
        if node["class_type"] == _EXPANDER:
            inputs["idea"] = inputs["must_keep"] = IDEA
    return result


def graph_with_micro_models(graph: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a workflow in the editor's format, likewise."""
    result = copy.deepcopy(dict(graph))
    for node in result["nodes"]:
        values = node["widgets_values"] = [INSTEAD.get(str(value), value) for value in node["widgets_values"]]
        names = [slot["name"] for slot in node["inputs"] if "widget" in slot]
        if node["type"] == _SIZE:
            values[:2] = SIDE, SIDE
        if node["type"] == _EXPANDER:
            values[names.index("idea")] = values[names.index("must_keep")] = IDEA
        node["properties"].pop("models", None)
    return result


def write_workflows(templates: Path, folder: Path) -> None:
    """Writes every template that has micro models with these into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in templates.glob("*.json"):
        if file.stem in ONLY_REAL:
            continue
        graph = graph_with_micro_models(json.loads(file.read_text(encoding="utf-8")))
        (folder / f"{file.stem} with micro models.json").write_text(json.dumps(graph, indent=2), encoding="utf-8")
