"""Shared by the nodes that query a language model: the GGML_LLM type, inputs, pictures, and the call with progress."""

from __future__ import annotations

import base64
import io as streams
from collections.abc import Callable
from typing import Any

import comfy.utils
import numpy as np
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ...native.llm.answer import answer
from ...native.llm.exchange import Endpoint
from ...native.llm.model import LanguageModel, LocalModel
from ...native.llm.stream import Answer
from ..components.host import COMFYUI
from ..node_text import show
from .patcher import register

LLM = io.Custom("GGML_LLM")
MAX_SEED = 0xFFFFFFFFFFFFFFFF
_MORE_IMAGES = ("image2", "image3", "image4")


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


def image_inputs(tooltip: str) -> list[io.Input]:
    """The inputs `image` to `image4`. tooltip: of the first."""
    more = "More pictures, which may be of another size. They are sent in the order of the inputs."
    first = io.Image.Input("image", optional=True, tooltip=tooltip)
    return [first, *(io.Image.Input(name, optional=True, tooltip=more) for name in _MORE_IMAGES)]


def data_urls(*images: Tensor | None) -> list[str]:
    """Every picture of some batches as a PNG in a data URL.

    images: [batch, height, width, channels], 0 to 1; None where nothing is linked.
    """
    return [data_url(image) for batch in images if batch is not None for image in batch]


def data_url(image: Tensor) -> str:
    """An image as a PNG in a data URL.

    image: [height, width, channels], 0 to 1.
    """
    file = streams.BytesIO()
    Image.fromarray((image.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def with_notes(text: str, answer: Answer) -> str:
    """A text for the node, followed by what the server did not take of the request."""
    return "\n\n".join([text, *answer.notes])


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
