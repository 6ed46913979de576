"""Two hundred damaged model files through a real server: each gives a picture or says what is wrong with it."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from native.weights import read_header
from tests.comfy_server import Client, JobFailed, Workflow, changed, eventually, node_id
from tests.faults.loaders import FOLDERS, is_paragraph

HEADERS, DATA = 30, 10  # damaged files of each of the five kinds
KINDS = {  # what is damaged -> its loader, input, and the nodes that compute with it
    "flux.gguf": ("GGMLDiffusionModel", "model_name", ("KSampler",)),
    "flux.safetensors": ("GGMLDiffusionModel", "model_name", ("KSampler",)),
    "t5.gguf": ("GGMLTextEncoders", "clip_name1", ("CLIPTextEncode",)),
    "clip.safetensors": ("GGMLTextEncoders", "clip_name2", ("CLIPTextEncode",)),
    "vae.gguf": ("GGMLVAE", "vae_name", ("VAEDecode",)),
}


def damaged_header(content: bytes, end: int, chance: random.Random) -> bytes:
    """One to eight bytes before `end` changed, put in or taken out."""
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(end)
        match chance.randrange(4):
            case 0:
                damaged[at] ^= 1 << chance.randrange(8)
            case 1:
                damaged[at : at + 8] = chance.randbytes(8)
            case 2:
                damaged.insert(at, chance.randrange(256))
            case _:
                del damaged[at]
    return bytes(damaged)


def damaged_data(content: bytes, start: int, chance: random.Random) -> bytes:
    """One to 64 places after `start` overwritten with noise."""
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 8, 64))):
        at = chance.randrange(start, len(content) - 4)
        damaged[at : at + 4] = chance.randbytes(4)
    return bytes(damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(comfyui: Client, models: Path, good: Workflow, kind: str) -> None:
    loader, input_, users = KINDS[kind]
    whole = models / FOLDERS[loader] / kind
    content = whole.read_bytes()
    start = min(tensor.offset for tensor in read_header(whole).tensors.values())
    path = whole.with_name(f"damaged.{kind.split('.')[1]}")
    new = whole.with_name("new")
    ends: Counter[str] = Counter()
    for seed in range(HEADERS + DATA):
        chance = random.Random(f"{kind} {seed}")
        damage, where = (damaged_header, start) if seed < HEADERS else (damaged_data, start)
        new.write_bytes(damage(content, where, chance))
        os.replace(new, path)  # a file that is mapped must not change
        eventually(lambda: path.name in str(comfyui.get(f"/object_info/{loader}")), path.name)
        end = comfyui.outcome(comfyui.queue(changed(good, {loader: {input_: path.name}})))
        if isinstance(end, JobFailed):
            message = end.message.strip()
            assert end.node in [node_id(good, name) for name in (loader, *users)], (seed, message)
            assert is_paragraph(message), (seed, message)
            assert path.name in message, (seed, message)
            ends["loader" if end.node == node_id(good, loader) else "later"] += 1
        else:
            assert comfyui.pictures(end)[0].shape == (64, 64, 3)
            ends["picture"] += 1
        comfyui.get("/system_stats")
    path.unlink()
    print(kind, dict(ends))
    assert ends["loader"] > HEADERS // 2
    assert ends["picture"] > 0
    assert comfyui.draw(changed(good, {"KSampler": {"seed": 200}})).shape == (64, 64, 3)
