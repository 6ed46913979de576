"""The planner's rules for language models: those of the nodes for them, their memory, and one that writes sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MethodType
from typing import Any

import comfy.text_encoders.ace15 as ace15

from ...native.llm.memory import compute_buffers, memory_of_model
from ...native.llm.model import LanguageModelError, LocalModel
from ...native.llm.styles import TARGETS
from ...native.placement import CPU
from ...native.wire.messages import ExternalModel
from ..components.core_function import with_names
from ..components.text_generation import NoProgress
from ..language.model import GGMLLanguageModel
from .other_nodes import follow, is_ours
from .unknown import Inputs, NodeTurn, Outputs, Unknown, Unplanned, all_known, known

CHAT_TOKENS = 256  # of an answer, as a prompt of unknown length
_SONG = "TextEncodeAceStepAudio1.5"


@dataclass(frozen=True)
class LoadedLanguageModel:
    """A local model and its loader node: the output of GGML Language Model in a plan."""

    model: LocalModel
    loader: str  # node id


def language_model(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """GGML Language Model."""
    (model,) = GGMLLanguageModel.execute(**all_known(inputs)).result
    return (LoadedLanguageModel(model, turn.recorder.part.node),)


def language_server(_inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """GGML Language Server, which takes no memory of this machine."""
    return (None,)


def prompt_expander(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """GGML Prompt Expander."""
    target = TARGETS.get(str(known(inputs, "target")))
    if target is None:
        raise Unplanned(f"it knows no target {inputs['target']!r}")
    text = _answer(inputs, turn, target.tokens)
    return text, text, text, text


def chat(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """GGML Chat."""
    text = _answer(inputs, turn, CHAT_TOKENS)
    return text, text


def song(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """TextEncodeAceStepAudio1.5: a code for each fifth of a second, of which the second takes what all others do."""

    def steps(count: int, **_: Any) -> Iterator[int]:
        yield from range(min(1, count))
        with turn.recorder.repeated(count - 1):
            yield from range(1, min(2, count))

    def codes(*args: Any, max_tokens: int, **kwargs: Any) -> list[int]:
        write(*args, max_tokens=max_tokens, **kwargs)
        return [0] * max_tokens

    name, progress = "comfy.text_encoders.ace15", {"model_trange": steps, "ProgressBar": NoProgress}
    loop = with_names(ace15.sample_manual_loop_no_classes, {f"comfy.utils.{key}": x for key, x in progress.items()})
    write = with_names(ace15.generate_audio_codes, {f"{name}.sample_manual_loop_no_classes": loop})
    if is_ours(inputs.get("clip")):
        encoder = inputs["clip"].cond_stage_model
        encode = with_names(type(encoder).encode_token_weights, {f"{name}.generate_audio_codes": codes})
        encoder.encode_token_weights = MethodType(encode, encoder)
    return follow(_SONG, inputs, True, turn)


def _answer(inputs: Inputs, turn: NodeTurn, tokens: int) -> Unknown:
    """The unknown answer of the model at the input `llm`; notes that the model is loaded for it."""
    model = known(inputs, "llm")
    if isinstance(model, LoadedLanguageModel):
        turn.recorder.note_external(_external(model.model, turn), model.loader)
    return Unknown("a language model writes it", tokens)


def _external(model: LocalModel, turn: NodeTurn) -> ExternalModel:
    """The memory of a model; on the CPU its weights are pages of the file and count as none.

    Raises Unplanned where llama.cpp cannot estimate it.
    """
    memory = memory_of_model(model)
    try:
        try:
            buffers = _compute_buffers(model)
        except LanguageModelError:
            if model.device == CPU:
                raise
            buffers = {model.device: sum(_compute_buffers(replace(model, device=CPU, layers=0)).values())}
            turn.assumptions.append(
                f"the compute buffer that {model.name} has on the CPU, as llama.cpp here cannot use {model.device}"
            )
    except LanguageModelError as error:
        raise Unplanned(str(error)) from error
    on_device = buffers.get(model.device, 0)
    elsewhere = sum(buffers.values()) - on_device
    if model.device == CPU:
        by_use = {"KV cache": memory.kv_on_cpu, "compute buffer": on_device + elsewhere}
        return ExternalModel(model.name, {CPU: by_use}, model.kept)
    device_by_use = {"weights": memory.weights, "KV cache": memory.kv, "compute buffer": on_device}
    cpu_by_use = {"KV cache": memory.kv_on_cpu, "compute buffer": elsewhere}
    return ExternalModel(model.name, {model.device: device_by_use, CPU: cpu_by_use}, model.kept)


@lru_cache(maxsize=32)
def _compute_buffers(model: LocalModel) -> dict[str, int]:
    return compute_buffers(model)
