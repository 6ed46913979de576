"""Weights of a test's own: parameters under the names that a file has, and names of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from native.weights import StoredTensor, WeightFile, WeightFileError, WeightSet
from native.weights.weight_set import parameter


def weight_set(header: WeightFile, model: str, tensors: Mapping[str, StoredTensor], names: Iterable[str]) -> WeightSet:
    """The parameters of these names; tensors: by their names. Raises WeightFileError where one is missing."""
    names = list(names)
    missing = [name for name in names if name not in tensors]
    if missing:
        raise WeightFileError(f"{header.path} lacks {', '.join(missing[:3])} of {model}.")
    held = {name: tensors[name] for name in names}
    parameters = {name: parameter(name, each.shape, each.runs, [each]) for name, each in held.items()}
    return WeightSet(model, parameters, header.files)


def affine(*layers: str) -> list[str]:
    """The names of the weight and the bias of each layer."""
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
