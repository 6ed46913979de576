"""GGML Latent Upscale Model: a file of any latent upscale model that ComfyUI knows."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import LATENT_UPSCALER
from .core_models import ALIASES, CoreModelNode, file_names, on_gpu_inputs


class GGMLLatentUpscaleModel(CoreModelNode):
    """The node."""

    LOADER, FOLDER, FILE = LATENT_UPSCALER, "latent_upscale_models", "model_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLLatentUpscaleModel",
            display_name="GGML Latent Upscale Model",
            category="loaders/GGML",
            description="Loads any latent upscale model that ComfyUI knows, of HunyuanVideo 1.5 and LTX-Video, and "
            "runs it on a Vulkan GPU or the CPU.",
            search_aliases=["latent upscaler", "video upscaler", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/latent_upscale_models. It must be made for the video model whose "
                    "latents it enlarges.",
                ),
                *on_gpu_inputs("latents are enlarged"),
            ],
            outputs=[io.LatentUpscaleModel.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
