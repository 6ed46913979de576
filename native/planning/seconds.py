"""The seconds of the steps of a dry run, from the rates of the devices that do them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..placement import CPU, TORCH
from ..wire.messages import DryRunStep, ExternalModel, ModelMemory, Step
from .rates import Rates

_MINUTE, _HOUR = 60, 3600


def seconds_of(
    step: Step | ExternalModel, times: int, before: Sequence[ModelMemory], done: DryRunStep, rates: Mapping[str, Rates]
) -> float | None:
    """Seconds of a step that is done so many times; None where the device's rates are not known.

    before: the models that were loaded; done: what the step left. Reading files that are not in the system's memory
    yet is not in it, nor what torch computes between two programs.
    """
    if isinstance(step, ExternalModel) or not times:
        return None
    known = rates.get(step.placement.device)
    if known is None:
        return None
    model = next((each for each in done.models if each.digest == step.weights.digest), None)
    loading = 0.0 if model is None else _loading(model, before, known)
    if step.program is None or step.do != "run":
        return loading
    if step.placement.device == CPU and step.placement.engine == TORCH and known.torch:
        return loading + times * known.torch.seconds(step.program)
    computing = known.seconds(step.program, repacked=bool(model and model.repacked))
    streaming = model.streamed / known.upload if model else 0.0  # beside what computes
    return loading + times * max(computing, streaming)


def _loading(model: ModelMemory, before: Sequence[ModelMemory], rates: Rates) -> float:
    """Seconds in which a model's weights come to its device; 0 where they are there."""
    if any((each.files_digest, each.device) == (model.files_digest, model.device) for each in before):
        return 0.0
    copying = (model.copied + model.arrays) / rates.upload
    return copying + (model.repacked / rates.repack if rates.repack else 0.0)


def about(seconds: float) -> str:
    """Seconds in words, as exact as they are known: "about 3 min"."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 10:
        return f"about {seconds:.0f} s"
    if seconds < _MINUTE:
        return f"about {5 * round(seconds / 5)} s"
    if seconds < 10 * _MINUTE:
        return f"about {seconds / _MINUTE:.0f} min"
    if seconds < _HOUR:
        return f"about {5 * round(seconds / _MINUTE / 5)} min"
    return f"about {seconds / _HOUR:.1f} h"
