"""The `device` and `weights` choices of the loaders: what they offer, what saved workflows name, what `auto` is."""

from __future__ import annotations

import asyncio

import comfy.model_management
import torch
from comfy_api.latest import io

from ..native.client import Device, RunnerError, shared

AUTO = "auto"
CPU = "CPU"
ON_DEVICE = "device"
# Offered until the devices of this machine are known: the runner loads no driver while ComfyUI starts.
USUAL = (CPU, "Vulkan0", "Vulkan1")

_known: list[str] = []


def devices() -> list[Device]:
    """The devices of this machine; starts the runner if need be."""
    found = shared().devices()
    _known[:] = [device.name for device in found]
    return found


def device_options() -> list[str]:
    """What a `device` input offers."""
    return [AUTO, *(_known or USUAL)]


def weights_input() -> io.Combo.Input:
    """The `weights` input of a loader; optional, as workflows from before it have none."""
    return io.Combo.Input(
        "weights", options=[AUTO, ON_DEVICE], default=AUTO, optional=True,
        tooltip="Where the weights lie. device: in the memory of the device; on the CPU that is a copy in the form its "
        "fastest code reads, for Q4 and a few other types, which costs as much RAM as the file is large and some "
        "seconds of loading. auto: the same on a GPU; on the CPU they are used in place from the file.",
    )  # fmt: skip


def repacks(weights: str, device: str) -> bool:
    """Whether a `weights` choice asks for repacked copies on the ggml device `device`."""
    return weights == ON_DEVICE and device == CPU


async def check_device(name: str) -> bool | str:
    """True, or what is wrong with a `device` that a workflow names; the server goes on answering meanwhile."""
    if name in (AUTO, CPU) or name in _known:
        return True
    try:
        found = await asyncio.to_thread(devices)
    except RunnerError as error:
        return str(error)
    if name in _known:
        return True
    there = "; ".join(f"{device.name} ({device.description})" for device in found)
    return f"This machine has no device {name}. It has: {there}. Choose one of them, or {AUTO}."


def first_gpu(found: list[Device]) -> str:
    """What `auto` means for a diffusion model: the first GPU that is not software, discrete ones first, or the CPU."""
    for kind in ("GPU", "IGPU"):
        for device in found:
            if device.type == kind and "software" not in device.features:
                return device.name
    return CPU


def diffusion_device(name: str) -> str:
    """The ggml device a diffusion model is placed on."""
    return first_gpu(devices()) if name == AUTO else name


def companion_device(name: str) -> str:
    """The ggml device a text encoder or VAE is placed on; `auto` leaves the GPU to the diffusion model."""
    return CPU if name == AUTO else name


def load_device(device: str) -> torch.device:
    """The torch device under which ComfyUI keeps account of a model placed on the ggml device `device`.

    Where torch has a GPU it may be the same one, so that both make room for each other there.
    """
    return torch.device("cpu") if device == CPU else comfy.model_management.get_torch_device()
