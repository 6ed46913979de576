"""GGML Language Server: a GGML_LLM on an OpenAI-compatible server."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
from comfy_api.latest import io

from ...native.errors import IsInterrupted
from ...native.llm.chat import list_models
from ...native.llm.keys import KEY_PREFIX, key_for
from ...native.llm.model import LanguageModelError, RemoteServer, check_url
from ..components.host import COMFYUI
from ..node_text import show
from .answering import LLM
from .model import KEEP, RELEASE

LIST_TIMEOUT = 5.0  # seconds
_SHOWN = 50  # names of models on the node


def server_at(url: str, model: str, key_variable: str, read_timeout: float) -> RemoteServer:
    """The server of these inputs.

    Raises LanguageModelError for an unusable address, and for a key variable that is unusable or not for this server.
    """
    problem = check_url(url) or key_for(key_variable, url)[1]
    if problem:
        raise LanguageModelError(problem)
    return RemoteServer(url.strip(), model.strip(), key_variable, read_timeout)


def listed_models(server: RemoteServer, interrupted: IsInterrupted = lambda: False) -> list[str]:
    """The models that a server lists within LIST_TIMEOUT. Raises LanguageModelError, Interrupted."""
    return list_models(replace(server, read_timeout=min(LIST_TIMEOUT, server.read_timeout)), interrupted)


class GGMLLanguageServer(io.ComfyNode):
    """The node GGML Language Server."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="GGMLLanguageServer",
            display_name="GGML Language Server",
            category="loaders/GGML",
            description="Uses a language model on an OpenAI-compatible server: llama-server, vLLM, Ollama, LM Studio, "
            "or one on the internet.",
            search_aliases=["LLM", "OpenAI", "Ollama", "vLLM", "LM Studio", "llama-server", "Vulkan"],
            inputs=[
                io.String.Input(
                    "url", default="http://127.0.0.1:8080/v1",
                    tooltip="The server's address, with /v1 at its end. Ollama: http://127.0.0.1:11434/v1, LM Studio: "
                    "http://127.0.0.1:1234/v1, vLLM: http://127.0.0.1:8000/v1.",
                ),
                io.String.Input(
                    "model", default="",
                    tooltip="The model's name on the server. Empty: the first in the server's list that chats. The "
                    "button below shows the list.",
                ),
                io.String.Input(
                    "key_variable", default="", advanced=True,
                    tooltip=f"For servers that want a key: the name of the environment variable that holds it, such as "
                    f"{KEY_PREFIX}KEY. Never the key itself: it would be saved in workflows and pictures.",
                ),
                io.Int.Input(
                    "timeout", default=120, min=1, max=3600, advanced=True,
                    tooltip="How many seconds to wait for the server to send more of its answer. Raise it if a large "
                    "model loads slowly.",
                ),
                io.Combo.Input(
                    "after_use", options=[RELEASE, KEEP], default=RELEASE, optional=True, advanced=True,
                    tooltip="What happens to the model's memory. release: the server is asked to unload the model when "
                    "a GGML model is about to compute, which Ollama, LM Studio and llama-server with several models "
                    "can do. keep: the server decides.",
                ),
            ],
            outputs=[LLM.Output(display_name="llm")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, url: str, key_variable: str) -> bool | str:
        """True, or the problem with the address or with a key for it; a linked input is None here, and seen later."""
        if url is None:
            return True
        return check_url(url) or (key_variable and key_for(key_variable, url)[1]) or True

    @classmethod
    def execute(cls, url: str, model: str, key_variable: str, timeout: int, after_use: str = RELEASE) -> io.NodeOutput:
        """Shows the models that the server lists, or why it lists none, which is no error until the model is used."""
        server = replace(server_at(url, model, key_variable, float(timeout)), release=after_use == RELEASE)
        try:
            with COMFYUI.engine_call():
                names = listed_models(server, comfy.model_management.processing_interrupted)
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            show(cls, "models: " + ", ".join(names[:_SHOWN]) + more)
        except LanguageModelError as error:
            show(cls, str(error))
        return io.NodeOutput(server)
