"""The list of nodes that ComfyUI asks for."""

from __future__ import annotations

import gc

from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from .components.observer import watch
from .devices import GGMLDevices
from .language.chat import GGMLChat
from .language.model import GGMLLanguageModel
from .language.prompt_expander import GGMLPromptExpander
from .language.server import GGMLLanguageServer
from .loaders.diffusion import GGMLDiffusionModel
from .loaders.files import register_folders
from .loaders.text_encoders import GGMLTextEncoders
from .loaders.vae import GGMLVAE
from .planner.actual import OBSERVER
from .planner.middleware import plan_before_it_is_queued, set_what_was_chosen
from .planner.node import GGMLMemoryPlanner
from .settings import set_threads
from .web.api import add_routes


class GGMLExtension(ComfyExtension):
    """This pack's nodes."""

    async def on_load(self) -> None:
        """Make `.gguf` files known to ComfyUI's model folders, take the user's settings, plan prompts, add routes."""
        register_folders()
        set_threads()
        if hasattr(PromptServer, "instance"):  # not where nodes are used without a server
            PromptServer.instance.app.middlewares.append(plan_before_it_is_queued)
            PromptServer.instance.add_on_prompt_handler(set_what_was_chosen)
            add_routes(PromptServer.instance.routes)
            watch(OBSERVER)
            # Planning makes so many objects that Python would look through all of ComfyUI's and torch's for garbage,
            # a third of a second in which the server does not answer. What is there at the start stays anyway.
            gc.freeze()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node class."""
        return [
            GGMLDiffusionModel,
            GGMLTextEncoders,
            GGMLVAE,
            GGMLLanguageModel,
            GGMLLanguageServer,
            GGMLPromptExpander,
            GGMLChat,
            GGMLMemoryPlanner,
            GGMLDevices,
        ]
