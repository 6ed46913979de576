"""Shared by the nodes that query a language model: the GGML_LLM type, inputs, and the call with progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.utils
from comfy_api.latest import io

from ...native.llm.answer import answer
from ...native.llm.chat import Endpoint
from ...native.llm.model import LanguageModel, LocalModel
from ...native.llm.stream import Answer
from ..components.host import COMFYUI
from ..node_text import show
from .patcher import register

LLM = io.Custom("GGML_LLM")
MAX_SEED = 0xFFFFFFFFFFFFFFFF


def seed_input() -> io.Input:
    """The `seed` input."""
    return io.Int.Input(
        "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True,
        tooltip="The same seed gives the same text with a GGUF file on this machine. Servers may not keep to it.",
    )  # fmt: skip


def temperature_input() -> io.Input:
    """The `temperature` input."""
    return io.Float.Input(
        "temperature", default=0.7, min=0.0, max=2.0, step=0.05,
        tooltip="How freely words are chosen. 0: always the most likely word. 0.7 is usual; above 1 texts lose their "
        "sense.",
    )  # fmt: skip


def answer_at(
    node: type[io.ComfyNode], model: LanguageModel, request: Callable[[Endpoint], dict[str, Any]], tokens: int
) -> Answer:
    """The model's answer to a request; the node shows its text and progress while it is written.

    tokens: about how long the answer is, for the progress bar.
    Raises LanguageModelError, and InterruptProcessingException when the user interrupts.
    """
    bar = comfy.utils.ProgressBar(tokens)

    def show_so_far(so_far: Answer) -> None:
        bar.update_absolute(min(so_far.pieces, tokens))
        show(node, so_far.text or f"thinking: {so_far.reasoning}")

    if isinstance(model, LocalModel):
        register(model)
    with COMFYUI.engine_call():
        return answer(model, request, show_so_far, comfy.model_management.processing_interrupted)
