"""GGML Chat: a language model answers a question, which may include images."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ...native.llm.model import LanguageModel
from ...native.llm.reasoning import answer_and_thinking, no_answer
from ...native.llm.requests import conversation_request
from ..node_text import show
from .answering import LLM, answer_at, data_urls, image_inputs, seed_input, temperature_input, with_notes


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
                    tooltip="The longest answer, in tokens of about four letters, thinking included. A longer one is "
                    "cut.",
                ),
                *image_inputs(
                    "The picture or pictures that the question is about. Needs a model with a projector (see GGML "
                    "Language Model), or a server whose model can see pictures."
                ),
            ],
            outputs=[io.String.Output(display_name="text"), io.String.Output(display_name="thinking")],
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
        image2: Tensor | None = None,
        image3: Tensor | None = None,
        image4: Tensor | None = None,
    ) -> io.NodeOutput:
        """Sends the question; the node shows the answer while it is written. Raises LanguageModelError."""
        images = data_urls(image, image2, image3, image4)
        reply = answer_at(
            cls, llm,
            lambda endpoint: conversation_request(system, text, images, seed, temperature, max_tokens, endpoint),
            max_tokens,
        )  # fmt: skip
        answer, thinking = answer_and_thinking(reply)
        if not answer:
            raise no_answer(reply, max_tokens)
        show(cls, with_notes(answer, reply))
        return io.NodeOutput(answer, thinking, ui=ui.PreviewText(answer))
