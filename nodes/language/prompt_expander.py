"""GGML Prompt Expander: a language model turns a short idea into a prompt for the diffusion model's text encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

from comfy.sd1_clip import SDTokenizer
from comfy.text_encoders.flux import T5XXLTokenizer
from comfy_api.latest import io

from ...native.llm.expansion import Expansion, expansion, unexpanded
from ...native.llm.model import LanguageModel, LanguageModelError
from ...native.llm.requests import expansion_request
from ...native.llm.styles import LENGTHS, NO_STYLE, OWN_STYLE, STYLES, TARGETS, Idea, must_keep_phrases
from ..node_text import show
from .answering import LLM, answer_at, seed_input, temperature_input

log = logging.getLogger(__name__)
STOP, PASS = "stop", "pass the idea through"
_TOKENIZERS = {"t5": T5XXLTokenizer, "clip": SDTokenizer}


class GGMLPromptExpander(io.ComfyNode):
    """The node GGML Prompt Expander."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="GGMLPromptExpander",
            display_name="GGML Prompt Expander",
            category="text/GGML",
            description="Turns a short idea into a prompt with a language model, in the form and within the tokens "
            "that the diffusion model's text encoder takes.",
            search_aliases=["LLM", "prompt enhancer", "prompt generator", "magic prompt", "Vulkan"],
            inputs=[
                LLM.Input("llm", tooltip="From GGML Language Model or GGML Language Server."),
                io.String.Input("idea", multiline=True, default="", tooltip="What the picture shows, in a few words."),
                io.Combo.Input(
                    "style", options=list(STYLES), default=NO_STYLE,
                    tooltip=f"The kind of picture. {NO_STYLE}: the model chooses. {OWN_STYLE}: what own_style says.",
                ),
                io.Combo.Input(
                    "target", options=list(TARGETS), default="FLUX schnell",
                    tooltip="What reads the prompt. FLUX schnell: sentences, up to 256 tokens of T5. FLUX dev: "
                    "sentences, up to 512. SD tags: tags, up to 77 tokens of CLIP.",
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
            ],
            outputs=[
                io.String.Output(display_name="prompt"),
                io.String.Output(display_name="negative"),
                io.String.Output(display_name="answer"),
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
    ) -> io.NodeOutput:
        """Sends the request; the node shows the answer while it is written. Raises LanguageModelError with STOP."""
        request = Idea(idea.strip(), style, own_style, target, length, must_keep_phrases(must_keep))
        raw = ""
        try:
            raw = answer_at(
                cls, llm,
                lambda endpoint: expansion_request(request, seed, temperature, endpoint),
                2 * LENGTHS[length].words,
            ).text  # fmt: skip
            expanded = expansion(raw, request, counter(TARGETS[target].tokenizer))
        except LanguageModelError as error:
            if on_failure == STOP:
                raise
            log.warning("The prompt is not expanded: %s", error)
            expanded = unexpanded(request)
            show(cls, f"Not expanded: {error}")
        else:
            show(cls, _describe(expanded))
        return io.NodeOutput(expanded.prompt, expanded.negative, raw)


def _describe(expanded: Expansion) -> str:
    return f"{expanded.prompt}\n\nnegative: {expanded.negative}" if expanded.negative else expanded.prompt


@cache
def counter(tokenizer: str) -> Callable[[str], int]:
    """A function that counts the tokens of a text, with start and end tokens. tokenizer: "t5" or "clip"."""
    instance = _TOKENIZERS[tokenizer]()

    def count(text: str) -> int:
        *full, last = instance.tokenize_with_weights(text)
        ids = [token for token, _ in last]
        return sum(map(len, full)) + ids.index(instance.end_token) + 1  # the rest is padding

    return count
