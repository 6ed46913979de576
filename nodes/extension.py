"""The list of nodes that ComfyUI asks for."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .devices import GGMLDevices
from .diffusion import GGMLDiffusionModel
from .files import register_folders
from .text_encoder import GGMLTextEncoders
from .vae import GGMLVAE


class GGMLExtension(ComfyExtension):
    """This pack's nodes."""

    async def on_load(self) -> None:
        """Make `.gguf` files known to ComfyUI's model folders."""
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node class."""
        return [GGMLDiffusionModel, GGMLTextEncoders, GGMLVAE, GGMLDevices]
