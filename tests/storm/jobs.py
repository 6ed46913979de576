"""Jobs whose pictures are known, as they were drawn before the storm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tests.comfy_server import Client, Workflow, changed, workflow

SIDE = 64  # pixels
SEEDS = (1, 2)  # by turns, so that ComfyUI has to sample again
TOLERANCE = 3  # of 255: where memory is short a product is computed in other parts, and rounded otherwise
_SMALL = {"EmptySD3LatentImage": {"width": SIDE, "height": SIDE}}


@dataclass(frozen=True)
class Task:
    """A workflow that saves one picture, and which picture that is: [height, width, 3] bytes."""

    name: str
    workflow: Workflow
    picture: np.ndarray

    def is_right(self, picture: np.ndarray) -> bool:
        """Whether it is the picture, but for rounding."""
        if picture.shape != self.picture.shape:
            return False
        return int(np.abs(picture.astype(int) - self.picture.astype(int)).max()) <= TOLERANCE


def workflows(language_server: str) -> dict[str, Workflow]:
    """The workflows of the storm by name: every loader, both devices and engines, every residency, LoRA, language.

    language_server: the URL of one that never gives a sensible answer.
    """
    return {
        f"{name}, seed {seed}": changed(base, {"KSampler": {"seed": seed, "steps": 4}})
        for name, base in _bases(language_server).items()
        for seed in SEEDS
    }


def _bases(language_server: str) -> Mapping[str, Workflow]:
    text = changed(workflow("text_to_image"), _SMALL)
    spoken = changed(workflow("expand_and_draw"), {**_SMALL, "GGMLLanguageModel": {"threads": 1}})
    asked = changed(workflow("expand_with_server"), {**_SMALL, "GGMLLanguageServer": {"url": language_server}})
    return {
        "CPU": _placed(text),
        "torch": _placed(text, engine="torch"),
        "CPU from disk": _placed(text, weights="disk"),
        "Vulkan": _placed(text, device="Vulkan0"),
        "Vulkan from RAM": _placed(text, device="Vulkan0", weights="ram"),
        "LoRA": _placed(changed(workflow("lora"), _SMALL)),
        "image to image": _placed(workflow("image_to_image")),
        "language model": _placed(spoken),
        "language server": _placed(asked),
    }


def _placed(base: Workflow, device: str = "CPU", engine: str = "ggml", weights: str = "auto") -> Workflow:
    """With the engine chosen, which `auto` would measure anew at every start of ComfyUI."""
    rest = {"device": "CPU", "engine": engine}
    diffusion = {"device": device, "engine": engine, "weights": weights}
    return changed(base, {"GGMLDiffusionModel": diffusion, "GGMLTextEncoders": rest, "GGMLVAE": rest})


def drawn(client: Client, language_server: str, vulkan: bool) -> list[Task]:
    """Every workflow with the picture that it makes while nothing goes wrong; vulkan: also those on a GPU."""
    chosen = {name: each for name, each in workflows(language_server).items() if vulkan or "Vulkan" not in name}
    return [Task(name, each, client.draw(each)) for name, each in chosen.items()]
