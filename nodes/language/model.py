"""GGML Language Model: a GGML_LLM from a GGUF file, run on this machine."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...native.llm.model import ALL_LAYERS, local_model
from ...native.placement import CPU
from ..loaders.device_inputs import check_device, companion_device, device_options
from ..loaders.files import LANGUAGE_MODELS, NONE, fingerprint, language_model_names, model_path, projector_names
from .answering import LLM

RELEASE, KEEP = "release", "keep"


class GGMLLanguageModel(io.ComfyNode):
    """The node GGML Language Model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's inputs and outputs."""
        return io.Schema(
            node_id="GGMLLanguageModel",
            display_name="GGML Language Model",
            category="loaders/GGML",
            description="Loads a language model from a GGUF file, to write prompts and answer questions. llama.cpp "
            "runs it in a process of its own and frees its memory before pictures are computed.",
            search_aliases=["GGUF", "LLM", "llama.cpp", "prompt enhancer", "Vulkan", "AMD", "low VRAM"],
            inputs=[
                io.Combo.Input(
                    "model_name", options=language_model_names(),
                    tooltip="A .gguf file in models/LLM. Instruction-tuned models of 3 to 8 billion parameters write "
                    "good prompts.",
                ),
                io.Combo.Input(
                    "device", options=device_options(), default=CPU,
                    tooltip="Where the model computes. auto: the CPU, which leaves the GPU to the diffusion model. A "
                    "GPU is faster, but needs xllamacpp's Vulkan build.",
                ),
                io.Int.Input(
                    "layers", default=ALL_LAYERS, min=ALL_LAYERS, max=1000, advanced=True,
                    tooltip="How many layers compute on the GPU, counted from the last; the rest stay on the CPU. "
                    "-1: all. Choose fewer if the GPU's memory is short.",
                ),
                io.Int.Input(
                    "context", default=4096, min=256, max=1 << 20, step=256, advanced=True,
                    tooltip="How many tokens question and answer may have together. Raise it for pictures and long "
                    "texts; memory grows with it. Never more than the model was trained for.",
                ),
                io.Int.Input(
                    "threads", default=0, min=0, max=512, advanced=True,
                    tooltip="Threads on the CPU. 0: one for each core, or as many as GGML_CPU_THREADS says.",
                ),
                io.Combo.Input(
                    "after_use", options=[RELEASE, KEEP], default=RELEASE,
                    tooltip="What happens to the model's memory. release: it is freed when a GGML model is about to "
                    "compute; the next question loads the model again, from the page cache. keep: the model stays "
                    "until ComfyUI unloads models; for enough memory and many questions.",
                ),
                io.Combo.Input(
                    "projector", options=[NONE, *projector_names()], default=NONE, optional=True, advanced=True,
                    tooltip="The file that lets the model see pictures, with mmproj in its name; for GGML Chat.",
                ),
            ],
            outputs=[LLM.Output(display_name="llm")],
        )  # fmt: skip

    @classmethod
    async def validate_inputs(cls, device: str) -> bool | str:
        """True, or the problem with the device."""
        return await check_device(device)

    @classmethod
    def fingerprint_inputs(cls, model_name: str, projector: str = NONE, **_: Any) -> Any:
        """Changes with the files."""
        return fingerprint(LANGUAGE_MODELS, [model_name, projector])

    @classmethod
    def execute(
        cls,
        model_name: str,
        device: str,
        layers: int,
        context: int,
        threads: int,
        after_use: str,
        projector: str = NONE,
    ) -> io.NodeOutput:
        """Reads the header; the model is loaded when it first answers. Raises WeightFileError."""
        path = model_path(LANGUAGE_MODELS, model_name)
        vision = None if projector == NONE else model_path(LANGUAGE_MODELS, projector)
        kept = after_use == KEEP
        return io.NodeOutput(local_model(path, companion_device(device), layers, context, threads, vision, kept))
