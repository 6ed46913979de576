"""GGML Devices: lists the devices of this machine."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..native.client import Device, shared
from ..native.ggml_build import build_words
from ..native.placement import CPU
from .loaders.device_inputs import devices, first_gpu
from .node_text import show

GIB = 2**30


def describe(present: list[Device]) -> str:
    """The devices in words, one paragraph each, and the devices that `auto` means."""
    paragraphs = []
    for device in present:
        lines = [
            f"{device.name}: {device.description} ({device.type})",
            f"  memory: {device.free / GIB:.1f} of {device.total / GIB:.1f} GiB free",
            f"  largest buffer: {device.largest_buffer / GIB:.1f} GiB",
        ]
        if device.driver:
            lines.append(f"  driver: {device.driver}")
        if device.features:
            lines.append(f"  features: {', '.join(device.features)}")
        lines += [f"  {trait}" for trait in device.traits]
        paragraphs.append("\n".join(lines))
    auto = f"auto is {first_gpu(present)} for the diffusion model, {CPU} for text encoders and the VAE."
    return "\n".join([*paragraphs, auto])


class GGMLDevices(io.ComfyNode):
    """The node GGML Devices."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="GGMLDevices",
            display_name="GGML Devices",
            category="loaders/GGML",
            description="Lists the GPUs and the CPU that GGML nodes can compute on, with their free memory.",
            search_aliases=["GGUF", "GPU", "VRAM", "Vulkan", "AMD", "RX 580"],
            outputs=[io.String.Output(display_name="devices")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """NaN, so that the node always runs: free memory changes."""
        return float("nan")

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Shows the devices; starts the runner where it does not run. Raises RunnerError."""
        found = describe(devices())
        text = "\n".join([build_words()[0], found, *shared().unusable])
        show(cls, text)
        return io.NodeOutput(text, ui=ui.PreviewText(text))
