"""LoRA files that safetensors cannot read: the message names the file on the node that loads it, planned or not."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tests.comfy_server import Client, Refused, Workflow, eventually
from tests.faults.damage import damage_bytes
from tests.faults.loaders import is_paragraph

NAME = "damaged.safetensors"
LOADER = "lora"


def with_lora(workflow: Workflow, **extra: Any) -> Workflow:
    """The workflow with a LoRA between the model and its sampler."""
    graph: Workflow = json.loads(json.dumps(workflow))
    sampler = next(node for node in graph.values() if node["class_type"] == "KSampler")
    inputs = {"model": sampler["inputs"]["model"], "lora_name": NAME, "strength_model": 1.0}
    sampler["inputs"]["model"] = [LOADER, 0]
    return {**graph, LOADER: {"class_type": "LoraLoaderModelOnly", "inputs": inputs}, **extra}


def damaged_files(whole: bytes) -> dict[str, bytes]:
    """A file damaged in every way that safetensors notices, by the way."""
    length = struct.unpack("<Q", whole[:8])[0]
    ways = {
        "cut in the data": whole[:-5],
        "cut in the header": whole[: 8 + length // 2],
        "more than its header says": whole + b"x",
        "a header that is too large": struct.pack("<Q", 1 << 60) + whole[8:],
        "no safetensors": b"PK\x03\x04" + bytes(200),
        "empty": b"",
        "a web page": b"<html>" + bytes(100),
    }
    for seed in range(20):
        damaged = damage_bytes(whole[: 8 + length], Random(seed)) + whole[8 + length :]
        ways[f"bytes {seed}"] = damaged
    return ways


def is_readable(path: Path) -> bool:
    try:
        with safe_open(path, "np"):
            return True
    except (SafetensorError, OSError):
        return False


def test_a_lora_that_cannot_be_read_is_named(comfyui: Client, good: Workflow, models: Path) -> None:
    path = models / "loras" / NAME
    name = "lora_unet_double_blocks_0_img_attn_proj"
    save_file({f"{name}.{part}.weight": np.ones(shape, "f4")
               for part, shape in (("lora_up", (128, 2)), ("lora_down", (2, 128)))}, path)  # fmt: skip
    eventually(lambda: NAME in str(comfyui.get("/object_info/LoraLoaderModelOnly")), NAME)
    said = {}
    try:
        whole = path.read_bytes()
        for way, content in damaged_files(whole).items():
            path.write_bytes(content)
            if is_readable(path):
                continue
            with pytest.raises(Refused) as refused:
                comfyui.run(with_lora(good))
            said[way] = refused.value.said(LOADER)
        path.write_bytes(whole[:-5])
        planned = comfyui.send("/ggml/plan", {"prompt": with_lora(good)})
        unused = with_lora(good)
        comfyui.queue({**good, LOADER: unused[LOADER]})  # which no output needs
    finally:
        path.unlink()
    assert len(said) > 10
    for way, each in said.items():
        assert str(path) in each, way
        assert is_paragraph(each), way
    assert str(path) in str(planned["notes"])
    assert "SafetensorError" not in str(planned)
