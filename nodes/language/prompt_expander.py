"""GGML Prompt Expander: a language model turns a short idea into a prompt for the diffusion model's text encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

from comfy.sd1_clip import SDTokenizer
from comfy.text_encoders.flux import T5XXLTokenizer
from comfy.text_encoders.qwen_image import Qwen25_7BVLITokenizer
from comfy_api.latest import io
from torch import Tensor

from ...native.llm.expansion import Expansion, expansion_of, unexpanded
from ...native.llm.model import LanguageModel, LanguageModelError
from ...native.llm.reasoning import answer_and_thinking
from ...native.llm.requests import expansion_request, expansion_tokens
from ...native.llm.stream import Answer
from ...native.llm.styles import LENGTHS, NO_STYLE, OWN_STYLE, STYLES, TARGETS, Idea, must_keep_phrases
from ..node_text import show
from .answering import LLM, answer_at, data_urls, image_inputs, seed_input, temperature_input, with_notes

log = logging.getLogger(__name__)
STOP, PASS = "stop", "pass the idea through"
_TOKENIZERS = {"t5": T5XXLTokenizer, "clip": SDTokenizer, "qwen": Qwen25_7BVLITokenizer}


class GGMLPromptExpander(io.ComfyNode):
    """The node GGML Prompt Expander."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="GGMLPromptExpander",
            display_name="GGML Prompt Expander",
            category="text/GGML",
            description="Turns a short idea into a prompt with a language model, in the form that the diffusion model "
            "was trained on and within the tokens that its text encoder takes.",
            search_aliases=["LLM", "prompt enhancer", "prompt generator", "magic prompt", "motion prompt", "Vulkan"],
            inputs=[
                LLM.Input("llm", tooltip="From GGML Language Model or GGML Language Server."),
                io.String.Input("idea", multiline=True, default="", tooltip="What the picture shows, in a few words."),
                io.Combo.Input(
                    "style", options=list(STYLES), default=NO_STYLE,
                    tooltip=f"The kind of picture. {NO_STYLE}: the model chooses. {OWN_STYLE}: what own_style says.",
                ),
                io.Combo.Input(
                    "target", options=list(TARGETS), default="FLUX schnell",
                    tooltip="The model that the prompt is for. FLUX schnell: sentences, up to 256 tokens. FLUX dev: "
                    "sentences, up to 512. SD tags: tags, up to 77. SDXL tags: tags in SDXL's order, up to 77. "
                    "Z-Image: what is seen and nothing else, up to 500. Qwen-Image: layout and lettering, up to 512. "
                    "Wan motion: one shot of a video, movement and camera, up to 512. LTX motion: one shot told in "
                    "order, up to 256.",
                ),
                io.Combo.Input(
                    "length", options=list(LENGTHS), default="medium",
                    tooltip="Length of the prompt: about 30, 80 or 180 words.",
                ),
                io.String.Input(
                    "must_keep", default="",
                    tooltip="Words and phrases, separated by commas, that must be in the prompt. What the model "
                    "leaves out is put in front.",
                ),
                seed_input(),
                temperature_input(),
                io.Combo.Input(
                    "on_failure", options=[STOP, PASS], default=STOP,
                    tooltip="What to do if the model gives no usable answer. stop: the workflow stops and says why. "
                    "pass the idea through: it goes on with idea and must_keep as the prompt; another seed asks again.",
                ),
                io.String.Input(
                    "own_style", multiline=True, default="", optional=True, advanced=True,
                    tooltip=f"How the picture should look, if style is {OWN_STYLE}.",
                ),
                *image_inputs(
                    "Pictures that the idea is about, or with which the video begins. Needs a model that can see, as "
                    "in GGML Chat."
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt"),
                io.String.Output(display_name="negative"),
                io.String.Output(display_name="answer"),
                io.String.Output(display_name="thinking"),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        llm: LanguageModel,
        idea: str,
        style: str,
        target: str,
        length: str,
        must_keep: str,
        seed: int,
        temperature: float,
        on_failure: str,
        own_style: str = "",
        image: Tensor | None = None,
        image2: Tensor | None = None,
        image3: Tensor | None = None,
        image4: Tensor | None = None,
    ) -> io.NodeOutput:
        """Sends the request; the node shows the answer while it is written. Raises LanguageModelError with STOP."""
        request = Idea(idea.strip(), style, own_style, target, length, must_keep_phrases(must_keep))
        images = data_urls(image, image2, image3, image4)
        reply = Answer()
        try:
            reply = answer_at(
                cls, llm,
                lambda endpoint: expansion_request(request, seed, temperature, endpoint, images),
                2 * LENGTHS[length].words,
            )  # fmt: skip
            count = counter(TARGETS[target].tokenizer)
            expanded = expansion_of(reply, request, count, expansion_tokens(length))
        except LanguageModelError as error:
            if on_failure == STOP:
                raise
            log.warning("The prompt is not expanded: %s", error)
            expanded = unexpanded(request)
            show(cls, f"Not expanded: {error}")
        else:
            show(cls, with_notes(_describe(expanded), reply))
        raw = reply.text if reply.text.strip() else reply.reasoning  # where some servers put it
        return io.NodeOutput(expanded.prompt, expanded.negative, raw, answer_and_thinking(reply)[1])


def _describe(expanded: Expansion) -> str:
    return f"{expanded.prompt}\n\nnegative: {expanded.negative}" if expanded.negative else expanded.prompt


@cache
def counter(tokenizer: str) -> Callable[[str], int]:
    """A function that counts the tokens of a text, with start and end tokens. tokenizer: as Target has it."""
    instance = _TOKENIZERS[tokenizer]()

    def count(text: str) -> int:
        *full, last = instance.tokenize_with_weights(text)
        ids = [token for token, _ in last]
        used = len(ids) if instance.end_token is None else ids.index(instance.end_token) + 1  # the rest is padding
        return sum(map(len, full)) + used

    return count
