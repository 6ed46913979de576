"""GGML Diffusion Model: a file of any diffusion model that ComfyUI knows to a MODEL."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import torch
from comfy_api.latest import io

from ...native.placement import AUTO, MIB, Placement, as_placement
from ...native.weights import WeightFile, WeightSet, read_header
from ..components.build import diffusion_model
from ..components.diffusion import DiffusionModule
from ..components.patcher import ComponentPatcher
from .device_inputs import check_device, device_options, diffusion_device, load_device, residency_inputs
from .files import fingerprint, model_names, model_path
from .found import found, say


def load_diffusion(header: WeightFile, placement: Placement | str) -> ComponentPatcher:
    """A MODEL computed where `placement` says: core's model class and sampling around a DiffusionModule.

    Raises WeightFileError when the tensors are of no model that core knows, or not all of it.
    """
    model, weights = diffusion_model(header)
    return placed_model(model, weights, as_placement(placement))


def placed_model(model: comfy.model_base.BaseModel, weights: WeightSet, placement: Placement) -> ComponentPatcher:
    """A MODEL of core's model without values."""
    overflows = torch.float16 not in model.model_config.supported_inference_dtypes
    model.diffusion_model = DiffusionModule(model.diffusion_model, weights, placement, overflows)
    model.device = torch.device("cpu")
    return ComponentPatcher(model, load_device(placement.device), torch.device("cpu"))


def found_model(patcher: ComponentPatcher) -> str:
    """A MODEL in words."""
    model = patcher.model
    return found(type(model.model_config).__name__, [model.diffusion_model.engine_model.file_weights])


class GGMLDiffusionModel(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLDiffusionModel",
            display_name="GGML Diffusion Model",
            category="loaders/GGML",
            description="Loads any diffusion model that ComfyUI knows from a GGUF or safetensors file and runs it "
            "quantized, on a Vulkan GPU or the CPU.",
            search_aliases=["GGUF", "Unet loader", "FLUX", "Vulkan", "AMD", "low VRAM", "RX 580"],
            inputs=[
                io.Combo.Input(
                    "model_name", options=model_names("diffusion_models"),
                    tooltip="A file in models/unet or models/diffusion_models. A smaller quantization takes less "
                    "memory and loses detail; Q4_K is usual for 8 GB cards.",
                ),
                io.Combo.Input(
                    "device", options=device_options(), default=AUTO,
                    tooltip="Where the model computes. auto: the first GPU, or the CPU if there is none. Change it to "
                    "use another device; the node GGML Devices lists them.",
                ),
                *residency_inputs(),
            ],
            outputs=[io.Model.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    async def validate_inputs(cls, device: str, engine: str = AUTO) -> bool | str:
        """Whether this machine has the device."""
        return await check_device(device, engine)

    @classmethod
    def fingerprint_inputs(cls, model_name: str, **_: Any) -> Any:
        """Changes with the file."""
        return fingerprint("diffusion_models", [model_name])

    @classmethod
    def execute(
        cls, model_name: str, device: str, weights: str = AUTO, budget: int = 0, engine: str = AUTO
    ) -> io.NodeOutput:
        """Reads the header; weights are read when sampling begins."""
        header = read_header(model_path("diffusion_models", model_name))
        model = load_diffusion(header, Placement(diffusion_device(device), weights, budget * MIB, engine))
        say(cls, [found_model(model)])
        return io.NodeOutput(model)
