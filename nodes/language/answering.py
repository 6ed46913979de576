"""The GGML_LLM type, and an answer of such a model as a node gives it: shown while it is written, interruptible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.utils
from comfy_api.latest import io

from ...native.llm.answer import answer
from ...native.llm.chat import Endpoint
from ...native.llm.model import LanguageModel, LocalModel
from ...native.llm.stream import Answer
from ..components.component import as_comfy
from ..node_text import show
from .patcher import account_for

LLM = io.Custom("GGML_LLM")
SEED = 0xFFFFFFFFFFFFFFFF  # the largest


def seed_input() -> io.Input:
    """The `seed` input of nodes that ask a language model."""
    return io.Int.Input(
        "seed", default=0, min=0, max=SEED, control_after_generate=True,
        tooltip="The same seed gives the same text with a GGUF file on this machine. Servers may not keep to it.",
    )  # fmt: skip


def temperature_input() -> io.Input:
    """The `temperature` input of nodes that ask a language model."""
    return io.Float.Input(
        "temperature", default=0.7, min=0.0, max=2.0, step=0.05,
        tooltip="How freely words are chosen. 0: always the most likely word. 0.7 is usual; above 1 texts lose their "
        "sense.",
    )  # fmt: skip


def answer_at(
    node: type[io.ComfyNode], model: LanguageModel, request: Callable[[Endpoint], dict[str, Any]], pieces: int
) -> Answer:
    """The answer to a request, as text on the node and progress of about `pieces` parts.

    Raises LanguageModelError, and what ComfyUI ends an interrupted prompt with.
    """
    bar = comfy.utils.ProgressBar(pieces)

    def show_so_far(so_far: Answer) -> None:
        bar.update_absolute(min(so_far.pieces, pieces))
        show(node, so_far.text or f"thinking: {so_far.reasoning}")

    if isinstance(model, LocalModel):
        account_for(model)
    with as_comfy():
        return answer(model, request, show_so_far, comfy.model_management.processing_interrupted)
