"""The extension that ComfyUI loads: its nodes, settings, routes and the planner of posted prompts."""

from __future__ import annotations

import gc

from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from .card_check import GGMLCardCheck
from .components.host import COMFYUI
from .devices import GGMLDevices
from .language.chat import GGMLChat
from .language.model import GGMLLanguageModel
from .language.prompt_expander import GGMLPromptExpander
from .language.server import GGMLLanguageServer
from .loaders.audio_encoder import GGMLAudioEncoder
from .loaders.background_removal import GGMLBackgroundRemoval
from .loaders.checkpoint import GGMLCheckpoint
from .loaders.clip_vision import GGMLClipVision
from .loaders.controlnet import GGMLControlNet
from .loaders.depth_anything import GGMLDepthAnything3
from .loaders.diffusion import GGMLDiffusionModel
from .loaders.files import register_folders
from .loaders.first_use import switch_off_what_was_wrong
from .loaders.frame_interpolation import GGMLFrameInterpolation
from .loaders.latent_upscale_model import GGMLLatentUpscaleModel
from .loaders.model_patch import GGMLModelPatch
from .loaders.moge import GGMLMoGeModel
from .loaders.move import GGMLMove
from .loaders.optical_flow import GGMLOpticalFlow
from .loaders.text_encoders import GGMLTextEncoders
from .loaders.upscale_model import GGMLUpscaleModel
from .loaders.vae import GGMLVAE
from .planner.actual import OBSERVER
from .planner.middleware import apply_choice, plan_posted_prompt
from .planner.node import GGMLMemoryPlanner
from .settings import set_threads
from .web.api import add_routes


class GGMLExtension(ComfyExtension):
    """This pack's nodes."""

    async def on_load(self) -> None:
        """Registers `.gguf` files with ComfyUI's model folders, applies settings, adds the planner and the routes."""
        register_folders()
        set_threads()
        switch_off_what_was_wrong()
        if hasattr(PromptServer, "instance"):  # not where nodes are used without a server
            PromptServer.instance.app.middlewares.append(plan_posted_prompt)
            PromptServer.instance.add_on_prompt_handler(apply_choice)
            add_routes(PromptServer.instance.routes)
            COMFYUI.observer = OBSERVER
            # Planning creates so many objects that Python would collect garbage among all of ComfyUI's and torch's,
            # a third of a second in which the server does not answer. Objects of the start live on anyway.
            gc.freeze()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes."""
        return [
            GGMLDiffusionModel,
            GGMLTextEncoders,
            GGMLVAE,
            GGMLCheckpoint,
            GGMLControlNet,
            GGMLClipVision,
            GGMLUpscaleModel,
            GGMLLatentUpscaleModel,
            GGMLModelPatch,
            GGMLAudioEncoder,
            GGMLBackgroundRemoval,
            GGMLMoGeModel,
            GGMLDepthAnything3,
            GGMLFrameInterpolation,
            GGMLOpticalFlow,
            GGMLMove,
            GGMLLanguageModel,
            GGMLLanguageServer,
            GGMLPromptExpander,
            GGMLChat,
            GGMLMemoryPlanner,
            GGMLDevices,
            GGMLCardCheck,
        ]
