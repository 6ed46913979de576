"""The inputs `device`, `weights`, `budget` and `engine` of the loaders: their options, and the meaning of `auto`."""

from __future__ import annotations

import asyncio

import comfy.model_management
import torch
from comfy_api.latest import io

from ...native.client import Device, RunnerError, shared
from ...native.engines.choose import refused
from ...native.placement import AUTO, CPU, ENGINES, RESIDENCIES
from ..components.host import COMFYUI, current_host, no_such_device
from .first_use import probe_at_first_use

# Offered until the devices of this machine are known: the runner loads no driver while ComfyUI starts.
USUAL = (CPU, "Vulkan0", "Vulkan1")


def devices() -> list[Device]:
    """The devices of this machine, for which the runner is started if need be, or of the one that is planned for."""
    return current_host().devices()


def device_options() -> list[str]:
    """The options of a `device` input."""
    return [AUTO, *(COMFYUI.device_names or USUAL)]


def residency_inputs(*more: io.Input) -> list[io.Input]:
    """The `weights`, `budget` and `engine` inputs of a loader; optional, as workflows from before them have none.

    more: inputs that stand behind `weights`.
    """
    return [
        io.Combo.Input(
            "weights", options=list(RESIDENCIES), default=AUTO, optional=True,
            tooltip="Where the weights are kept. Leave it on auto unless memory is short. device: in the device's "
            "memory; on the CPU a copy in the layout of its fastest code (Q4 and a few other types), which takes as "
            "much RAM as the file is large and some seconds to load. ram: on a GPU they stay in RAM and are copied "
            "through it block by block, so that a model larger than its memory runs, slower; on the CPU they are used "
            "in place from the file. disk: like device, but unloaded as soon as another model computes. auto: on a "
            "GPU device if they fit, else ram; on the CPU ram.",
        ),
        *more,
        io.Int.Input(
            "budget", default=0, min=0, max=1 << 20, optional=True, advanced=True,
            tooltip="MiB of the device's memory that weights and compute buffer may take together. 0: what is free. "
            "Set it if another program needs room there.",
        ),
        io.Combo.Input(
            "engine", options=list(ENGINES), default=AUTO, optional=True, advanced=True,
            tooltip="What computes on the CPU; a GPU always uses ggml. torch: ComfyUI's own torch, with weights read "
            "from the file layer by layer; much faster on processors with BF16 instructions, and for the VAE. ggml: in "
            "a process of its own. auto: measures both once after ComfyUI starts and takes torch if it is clearly "
            "faster. Their pictures differ a little: choose one of the two if a seed must give the same picture on "
            "every computer.",
        ),
    ]  # fmt: skip


async def check_device(name: str | None, engine: str | None = AUTO) -> bool | str:
    """True, or what is wrong with a `device` that a workflow names; the server goes on answering meanwhile.

    What comes over a link is None here.
    """
    if name in (None, AUTO, CPU):
        return True
    wrong = refused(name, engine)
    if wrong:
        return wrong
    if name in COMFYUI.device_names:
        return True
    try:
        found = await asyncio.to_thread(devices)
    except RunnerError as error:
        return str(error)
    if name in COMFYUI.device_names:
        return True
    return " ".join([no_such_device("This machine", name, found), *shared().unusable])


def first_gpu(found: list[Device]) -> str:
    """The device that `auto` means for a diffusion model: the first real GPU, discrete ones first, or the CPU."""
    for kind in ("GPU", "IGPU"):
        for device in found:
            if device.type == kind and "software" not in device.features:
                return device.name
    return CPU


def diffusion_device(name: str) -> str:
    """The ggml device a diffusion model is placed on; raises RunnerError where it is planned for a machine without."""
    return _probed(first_gpu(devices())) if name == AUTO else _required(name)


def companion_device(name: str) -> str:
    """The ggml device a text encoder or VAE is placed on; `auto` leaves the GPU to the diffusion model.

    Raises RunnerError where it is planned for a machine without the device.
    """
    return CPU if name == AUTO else _required(name)


def _required(name: str) -> str:
    current_host().require_device(name)
    return _probed(name)


def _probed(name: str) -> str:
    if name != CPU and not current_host().plans:
        with COMFYUI.engine_call():
            probe_at_first_use(name)
    return name


def load_device(device: str) -> torch.device:
    """The torch device under which ComfyUI keeps account of a model placed on the ggml device `device`.

    Where torch has a GPU it may be the same one, so that both make room for each other there.
    """
    return torch.device("cpu") if device == CPU else comfy.model_management.get_torch_device()
