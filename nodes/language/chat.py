"""GGML Chat: a language model answers a question, which may include images."""

from __future__ import annotations

import base64
import io as streams

import numpy as np
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ...native.llm.expansion import without_reasoning
from ...native.llm.model import LanguageModel
from ...native.llm.requests import conversation_request
from ..node_text import show
from .answering import LLM, answer_at, seed_input, temperature_input


class GGMLChat(io.ComfyNode):
    """The node GGML Chat."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="GGMLChat",
            display_name="GGML Chat",
            category="text/GGML",
            description="Asks a language model a question, about pictures too if the model can see them.",
            search_aliases=["LLM", "chat", "describe picture", "caption", "VLM", "Vulkan"],
            inputs=[
                LLM.Input("llm", tooltip="From GGML Language Model or GGML Language Server."),
                io.String.Input(
                    "system", multiline=True, default="",
                    tooltip="The role of the model, such as: You describe pictures in one sentence. May be empty.",
                ),
                io.String.Input("text", multiline=True, default="", tooltip="The question."),
                seed_input(),
                temperature_input(),
                io.Int.Input(
                    "max_tokens", default=512, min=1, max=1 << 16,
                    tooltip="The longest answer, in tokens of about four letters. A longer one is cut.",
                ),
                io.Image.Input(
                    "image", optional=True,
                    tooltip="The picture or pictures that the question is about. Needs a model with a projector (see "
                    "GGML Language Model), or a server whose model can see pictures.",
                ),
            ],
            outputs=[io.String.Output(display_name="text")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        llm: LanguageModel,
        system: str,
        text: str,
        seed: int,
        temperature: float,
        max_tokens: int,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        """Sends the question; the node shows the answer while it is written. Raises LanguageModelError."""
        images = [] if image is None else [data_url(each) for each in image]
        reply = answer_at(
            cls, llm,
            lambda endpoint: conversation_request(system, text, images, seed, temperature, max_tokens, endpoint),
            max_tokens,
        )  # fmt: skip
        answer = without_reasoning(reply.text)
        show(cls, answer)
        return io.NodeOutput(answer, ui=ui.PreviewText(answer))


def data_url(image: Tensor) -> str:
    """An image as a PNG in a data URL.

    image: [height, width, channels], 0 to 1.
    """
    file = streams.BytesIO()
    Image.fromarray((image.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
