"""Templates run small in a real ComfyUI, with core's loaders and with ours, on the same random models.

Only templates all of whose files have a small stand-in that core's own detection takes run here; the others say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests import comfy_server, pack

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.ops  # noqa: E402

from .. import checkpoints  # noqa: E402
from ..parity.model_cases import randomize  # noqa: E402
from . import host, inputs, planning  # noqa: E402
from .encoders import ENCODERS  # noqa: E402
from .packages import Template  # noqa: E402

Tensors = dict[str, torch.Tensor]
# What inputs of these names become, where they hold a number that is larger.
SMALLER: Mapping[str, int] = {
    "width": 64, "height": 64, "length": 5, "num_frames": 5, "steps": 2, "batch_size": 1, "end_at_step": 2,
    "megapixels": 1,
}  # fmt: skip
_SIZE = inputs.Size(64, 64, 5)


def _clip_l() -> Tensors:
    """With all of its layers: core reads no other sizes of it."""
    config = ENCODERS["CLIP-L"].config()
    module = comfy.clip_model.CLIPTextModel(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    return checkpoints.without_projection(dict(randomize(module).state_dict()))


def _sd15() -> Tensors:
    kept = {name: x for name, x in checkpoints.sd15().items() if not name.startswith("cond_stage_model.")}
    return kept | checkpoints.behind("cond_stage_model.transformer.", _clip_l())


# The small stand-in of files whose names begin so.
SMALL_FILES: Mapping[str, Callable[[], Tensors]] = {"v1-5|dreamshaper": _sd15}


def run(template: Template, folder: Path, result: planning.Result) -> None:
    """Runs a template both ways and notes how far the pictures are apart. folder: of small models, kept there."""
    absent = write_small(folder / "server" / "models", template.files)
    if absent:
        result.why.append(f"it has no small stand-in of {', '.join(absent)}")
        return
    host.start()
    host.use_folders(folder / "server" / "models", folder / "server" / "input")
    prompt = planning.opened(template, planning.Result(template.name))
    if prompt is None:
        return
    prompt = smaller(prompt)
    ours, _ = pack.part("nodes.conversion.convert").convert(prompt)
    inputs.write_inputs(prompt, folder / "server" / "input", _SIZE)
    try:
        with comfy_server.running(folder / "server", folder / "server" / "models") as client:
            expected, found = (client.pictures(client.run(each)) for each in (prompt, dict(ours)))
    except (comfy_server.JobFailed, comfy_server.Refused) as error:
        result.run = False
        result.why.append(f"run small: {error}")
        return
    result.run = bool(found)
    result.equal = min((alike(*pair) for pair in zip(expected, found, strict=True)), default=None)


def smaller(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt with small sizes, and few frames and steps."""
    return {key: {**node, "inputs": dict(map(_small_input, node["inputs"].items()))} for key, node in prompt.items()}


def _small_input(item: tuple[str, Any]) -> tuple[str, Any]:
    name, value = item
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return name, min(value, SMALLER[name]) if number and name in SMALLER else value


def write_small(models: Path, files: tuple[tuple[str, str], ...]) -> list[str]:
    """Writes small stand-ins for these files; returns those that there is none of."""
    absent = []
    for directory, name in files:
        make = next((each for pattern, each in SMALL_FILES.items() if re.match(pattern, name, re.IGNORECASE)), None)
        path = models / directory / name
        if make is None:
            absent.append(name)
        elif not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: x.half().contiguous() for key, x in make().items()}, path)
    return absent


def alike(found: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal to noise ratio of two pictures of bytes in dB; at most 99."""
    error = float(np.square(found.astype(np.float64) - expected).mean())
    return min(99.0, 10 * np.log10(255**2 / error)) if error else 99.0
