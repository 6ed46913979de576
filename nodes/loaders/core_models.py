"""The common part of the loaders of core's other models: inputs, and the model in a file as core has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...native.placement import AUTO, CPU, MIB, Placement
from ..components.control_lora import ControlLora
from ..components.core_loading import CoreLoader, load_core_model
from ..components.core_module import component_parts
from .device_inputs import (
    check_device,
    companion_device,
    device_options,
    diffusion_device,
    load_device,
    residency_inputs,
)
from .files import GGUF_FOLDERS, fingerprint, model_path
from .found import found, say

ALIASES = ["GGUF", "Vulkan", "AMD", "low VRAM", "RX 580"]


def file_names(folder: str) -> list[str]:
    """GGUF files, and those that core's own loader offers; none where this ComfyUI has no such folder."""
    if folder not in folder_paths.folder_names_and_paths:
        return []
    return [*folder_paths.get_filename_list(GGUF_FOLDERS[folder]), *folder_paths.get_filename_list(folder)]


def on_gpu_inputs(computes: str) -> list[io.Input]:
    """The inputs `device`, on a GPU by default, `weights`, `budget` and `engine`; computes: a clause."""
    return [
        io.Combo.Input(
            "device", options=device_options(), default=AUTO,
            tooltip=f"Where {computes}. auto: the first GPU, or the CPU if there is none. Change it to use another "
            "device; the node GGML Devices lists them.",
        ),
        *residency_inputs(),
    ]  # fmt: skip


def beside_gpu_inputs(computes: str) -> list[io.Input]:
    """As on_gpu_inputs, of a model that computes once and leaves the GPU to others."""
    return [
        io.Combo.Input(
            "device", options=device_options(), default=CPU,
            tooltip=f"Where {computes}. auto: the CPU, which leaves the GPU to the diffusion model. A GPU is faster.",
        ),
        *residency_inputs(),
    ]  # fmt: skip


class CoreModelNode(io.ComfyNode):
    """A loader node of one kind of core's models; what is particular stands in its class.

    FILE: its input that names the file. place: the device that the input `device` means.
    """

    LOADER: CoreLoader
    FOLDER: str
    FILE: str
    place: Callable[[str], str] = staticmethod(diffusion_device)

    @classmethod
    async def validate_inputs(cls, device: str, engine: str = AUTO) -> bool | str:
        """Whether this machine has the device."""
        return await check_device(device, engine)

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> Any:
        """Changes with the file."""
        return fingerprint(cls.FOLDER, [inputs[cls.FILE]])

    @classmethod
    def execute(
        cls, device: str, weights: str = AUTO, budget: int = 0, engine: str = AUTO, **file: str
    ) -> io.NodeOutput:
        """Reads the header; weights are read when the model first computes."""
        placement = Placement(cls.place(device), weights, budget * MIB, engine)
        model = cls.load(model_path(cls.FOLDER, file[cls.FILE]), placement)
        held = [(part.engine_model.module, part.engine_model.file_weights) for part in component_parts(model)]
        if isinstance(model, ControlLora):
            held.append((model, model.file))
        say(cls, [found(type(each).__name__, [weights]) for each, weights in held])
        return io.NodeOutput(model)

    @classmethod
    def load(cls, path: str, placement: Placement) -> Any:
        """The model in a file, as core's nodes take it."""
        return load_core_model(cls.LOADER, path, placement, load_device(placement.device))


class BesideGPU(CoreModelNode):
    """A loader node of a model that computes once, on the CPU unless a GPU is named."""

    place = staticmethod(companion_device)
