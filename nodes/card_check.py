"""GGML Card Check: computes on a card what models compute, and says whether it is right and how fast it is."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
from comfy_api.latest import io, ui

from ..native.card import (
    FULL_SECONDS,
    QUICK_SECONDS,
    CardOptions,
    CardReport,
    Watch,
    check_card,
    to_json,
    to_page,
)
from ..native.client import Interrupted, RunnerError
from ..native.placement import AUTO, CPU
from ..native.threads import wanted_threads
from .components.host import COMFYUI
from .loaders.device_inputs import check_device, device_options, devices, first_gpu
from .node_text import show

log = logging.getLogger(__name__)
QUICK, FULL = "quick", "full"
_SECONDS = {QUICK: QUICK_SECONDS, FULL: FULL_SECONDS}
_LIMIT = {QUICK: 25.0, FULL: 120.0}  # seconds without a sign of progress


class GGMLCardCheck(io.ComfyNode):
    """The node GGML Card Check."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="GGMLCardCheck",
            display_name="GGML Card Check",
            category="loaders/GGML",
            description="Computes on a GPU what FLUX.1, SDXL, Z-Image and Wan compute, compares it with the CPU, and "
            "measures the GPU's speed. It needs no model files. Run it first when something goes wrong.",
            search_aliases=["GPU", "Vulkan", "driver", "benchmark", "test", "AMD", "RX 580", "black image"],
            inputs=[
                io.Combo.Input(
                    "device", options=device_options(), default=AUTO, optional=True,
                    tooltip="The GPU to check. auto: the first one. Change it to check another; the node GGML Devices "
                    "lists them.",
                ),
                io.Combo.Input(
                    "extent", options=[QUICK, FULL], default=QUICK, optional=True,
                    tooltip="quick: results, memory and the most important speeds, in a minute. full: also the speed "
                    "of every model's block, and all of it with fp16, matrix cores and integer dot products switched "
                    "off, in 8 minutes. Choose full for a report on a card.",
                ),
            ],
            outputs=[io.String.Output(display_name="report"), io.String.Output(display_name="json")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """NaN, so that the node always runs."""
        return float("nan")

    @classmethod
    async def validate_inputs(cls, device: str | None = AUTO) -> bool | str:
        """True, or what is wrong with the device that a workflow names."""
        return await check_device(device)

    @classmethod
    def execute(cls, device: str = AUTO, extent: str = QUICK) -> io.NodeOutput:
        """Checks while ComfyUI's server goes on answering; raises RunnerError where there is no GPU."""
        comfy.model_management.unload_all_models()  # speed and memory are to be the card's own
        progress = COMFYUI.progress()

        def watched(done: float, what: str) -> None:
            progress(round(100 * done), 100)
            if what:
                show(cls, f"Checking: {what}")

        try:
            report = checked(device, extent, Watch(COMFYUI.is_interrupted, watched))
        except Interrupted:
            COMFYUI.raise_if_interrupted()
            raise comfy.model_management.InterruptProcessingException from None
        page = to_page(report)
        log.info("%s", page)
        show(cls, page)
        return io.NodeOutput(page, to_json(report), ui=ui.PreviewText(page))


def checked(device: str, extent: str, watch: Watch) -> CardReport:
    """The report on a device; raises RunnerError where `auto` finds no GPU, and Interrupted."""
    name = first_gpu(devices()) if device == AUTO else device
    if name == CPU:
        raise RunnerError(
            "There is no GPU to check: ggml found the CPU alone. GGML Devices says which build of ggml there is; "
            "docs/troubleshooting.md has what to do under No Vulkan device."
        )
    options = CardOptions(
        name, full=extent == FULL, seconds=_SECONDS[extent], limit=_LIMIT[extent], threads=wanted_threads() or 0
    )
    return check_card(options, watch)
