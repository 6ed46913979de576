"""GGML Diffusion Model: a FLUX.1 file to a MODEL."""

from __future__ import annotations

from typing import Any

import comfy.model_detection
import torch
from comfy_api.latest import io

from ...native.placement import AUTO, MIB, Placement, as_placement
from ...native.weights import WeightFileError, WeightSet, flux, read_header
from ..components.component import MetaOperations
from ..components.diffusion import DiffusionModule
from ..components.patcher import ComponentPatcher
from .device_inputs import check_device, device_options, diffusion_device, load_device, residency_inputs
from .files import fingerprint, model_names, model_path, shape_errors_named


def load_diffusion(weights: WeightSet, placement: Placement | str) -> ComponentPatcher:
    """A MODEL computed where `placement` says: core's model class and sampling around a DiffusionModule.

    Raises WeightFileError when the tensors are of no model that core knows, or not all of it.
    """
    placement = as_placement(placement)
    shapes = {name: torch.empty(parameter.shape, device="meta") for name, parameter in weights.parameters.items()}
    with shape_errors_named(weights):
        config = comfy.model_detection.model_config_from_unet(shapes, "")
        if config is None:
            raise WeightFileError(
                f"{weights.files[0][0]} is a {weights.name} of a kind that this ComfyUI does not know."
            )
        ratio = shapes["double_blocks.0.img_mlp.0.weight"].shape[0] / config.unet_config["hidden_size"]
        config.unet_config["mlp_ratio"] = ratio  # core takes FLUX.1's 4.0
        config.custom_operations = MetaOperations
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model(shapes, device=torch.device("meta"))
    model.diffusion_model = DiffusionModule(model.diffusion_model, weights, placement)
    model.device = torch.device("cpu")
    return ComponentPatcher(model, load_device(placement.device), torch.device("cpu"))


class GGMLDiffusionModel(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLDiffusionModel",
            display_name="GGML Diffusion Model",
            category="loaders/GGML",
            description="Loads FLUX.1 from a GGUF or safetensors file and runs it quantized, on a Vulkan GPU or the "
            "CPU.",
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
        read = flux(read_header(model_path("diffusion_models", model_name)))
        placement = Placement(diffusion_device(device), weights, budget * MIB, engine)
        return io.NodeOutput(load_diffusion(read, placement))
