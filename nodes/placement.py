"""The `device` choice of every loader: what it offers, what a saved workflow may name, and what `auto` means."""

from __future__ import annotations

import asyncio

import comfy.model_management
import torch

from ..native.client import Device, RunnerError, shared

AUTO = "auto"
CPU = "CPU"
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
