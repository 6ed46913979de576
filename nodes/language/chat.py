"""GGML Chat: a question to a language model, with a picture where it can see."""

from __future__ import annotations

import base64
import io as streams

import numpy as np
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ...native.llm.conversation import request
from ...native.llm.expansion import without_reasoning
from ...native.llm.model import LanguageModel
from ...native.llm.seed import seed_of
from ..node_text import show
from .answering import LLM, answer_at, seed_input, temperature_input


class GGMLChat(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
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
        """Asks the model; the text appears on the node while it is written."""
        pictures = [] if image is None else [data_url(each) for each in image]
        found = answer_at(
            cls, llm,
            lambda endpoint: request(system, text, pictures, seed_of(seed), temperature, max_tokens, endpoint),
            max_tokens,
        )  # fmt: skip
        said = without_reasoning(found.text)
        show(cls, said)
        return io.NodeOutput(said, ui=ui.PreviewText(said))


def data_url(image: Tensor) -> str:
    """A picture [height, width, channels] of 0 to 1 as a PNG in a data URL."""
    file = streams.BytesIO()
    Image.fromarray((image.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
