"""GGML Language Server: the address of an OpenAI-compatible server to a GGML_LLM."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
from comfy_api.latest import io

from ...native.errors import IsInterrupted
from ...native.llm.answer import models_of
from ...native.llm.errors import LanguageModelError
from ...native.llm.model import KEY_PREFIX, RemoteServer, check_key_variable, check_url
from ..components.component import as_comfy
from ..node_text import show
from .answering import LLM

LISTING = 5.0  # seconds


def server_at(url: str, model: str, key_variable: str, patience: float) -> RemoteServer:
    """The server of these inputs; raises LanguageModelError where one of them is none."""
    wrong = check_url(url) or check_key_variable(key_variable)
    if wrong:
        raise LanguageModelError(wrong)
    return RemoteServer(url.strip(), model.strip(), key_variable, patience)


def listed_models(server: RemoteServer, interrupted: IsInterrupted = lambda: False) -> list[str]:
    """The models that a server lists within 5 seconds. Raises LanguageModelError, Interrupted."""
    return models_of(replace(server, patience=min(LISTING, server.patience)), interrupted)


class GGMLLanguageServer(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLLanguageServer",
            display_name="GGML Language Server",
            category="loaders/GGML",
            description="A language model on a server that speaks OpenAI's protocol: llama-server, vLLM, Ollama, "
            "LM Studio, or one on the internet.",
            search_aliases=["LLM", "OpenAI", "Ollama", "vLLM", "LM Studio", "llama-server", "Vulkan"],
            inputs=[
                io.String.Input(
                    "url", default="http://127.0.0.1:8080/v1",
                    tooltip="The server's address, up to and with /v1. Ollama: http://127.0.0.1:11434/v1, LM Studio: "
                    "http://127.0.0.1:1234/v1, vLLM: http://127.0.0.1:8000/v1.",
                ),
                io.String.Input(
                    "model", default="",
                    tooltip="As the server names it; empty: the first that it lists. The button below lists them.",
                ),
                io.String.Input(
                    "key_variable", default="", advanced=True,
                    tooltip=f"The name of an environment variable of ComfyUI that holds the server's key, such as "
                    f"{KEY_PREFIX}KEY. The key itself must not be here: workflows and pictures carry what is.",
                ),
                io.Int.Input(
                    "timeout", default=120, min=1, max=3600, advanced=True,
                    tooltip="Seconds without a word from the server after which it counts as hanging.",
                ),
            ],
            outputs=[LLM.Output(display_name="llm")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, url: str, key_variable: str) -> bool | str:
        """Whether the address is one and the key is set; a linked input is None here."""
        return (url is not None and check_url(url)) or (key_variable and check_key_variable(key_variable)) or True

    @classmethod
    def execute(cls, url: str, model: str, key_variable: str, timeout: int) -> io.NodeOutput:
        """Shows the models that the server lists, or why it lists none; whether that matters is for who asks it."""
        server = server_at(url, model, key_variable, float(timeout))
        try:
            with as_comfy():
                names = listed_models(server, comfy.model_management.processing_interrupted)
            show(cls, "models: " + ", ".join(names))
        except LanguageModelError as error:
            show(cls, str(error))
        return io.NodeOutput(server)
