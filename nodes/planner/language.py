"""What a local language model takes, as llama.cpp works it out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from ...native.llm.memory import compute_buffers, memory_of_model
from ...native.llm.model import LanguageModelError, LocalModel
from ...native.placement import CPU
from ...native.wire.messages import ExternalModel
from .unknown import NodeTurn, Unplanned


@dataclass(frozen=True)
class PlacedLanguageModel:
    """A model and the node that names it."""

    model: LocalModel
    loader: str


def taken_by(model: LocalModel, following: NodeTurn) -> ExternalModel:
    """What it takes of its device and of RAM; on the CPU weights are pages of the file and take nothing.

    Raises Unplanned where llama.cpp cannot tell.
    """
    memory = memory_of_model(model)
    try:
        try:
            buffers = _compute_buffers(model)
        except LanguageModelError:
            if model.device == CPU:
                raise
            buffers = {model.device: sum(_compute_buffers(replace(model, device=CPU, layers=0)).values())}
            following.taken.append(
                f"the compute buffer that {model.name} has on the CPU, as llama.cpp here cannot use {model.device}"
            )
    except LanguageModelError as error:
        raise Unplanned(str(error)) from error
    there = buffers.get(model.device, 0)
    rest = sum(buffers.values()) - there
    if model.device == CPU:
        return ExternalModel(
            model.name, {CPU: {"KV cache": memory.kv_on_cpu, "compute buffer": there + rest}}, model.kept
        )
    on_device = {"weights": memory.weights, "KV cache": memory.kv, "compute buffer": there}
    on_cpu = {"KV cache": memory.kv_on_cpu, "compute buffer": rest}
    return ExternalModel(model.name, {model.device: on_device, CPU: on_cpu}, model.kept)


@lru_cache(maxsize=32)
def _compute_buffers(model: LocalModel) -> dict[str, int]:
    return compute_buffers(model)
