"""From the names in a file to the parameter names of ComfyUI's modules: what every model family shares."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, prod

from .read import read_parameter
from .weight_file import FileTensor, WeightFile, WeightFileError
from .weight_set import WeightSet, parameter_of

SCALES = (".scale_weight", ".weight_scale")  # of FP8 weights: ComfyUI's older and newer name
UNUSED = (".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8", ".weight_scale_2")  # for FP8 arithmetic alone
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scaled:
    """A tensor of a file and what its values are multiplied by."""

    tensor: FileTensor
    scale: float = 1.0


def prefixes(header: WeightFile, marker: str) -> list[str]:
    """What stands before `marker` in the names of tensors that end in it, shortest first."""
    found = [name[: -len(marker)] for name in header.tensors if name == marker or name.endswith("." + marker)]
    return sorted(found, key=len)


def under(header: WeightFile, prefix: str) -> dict[str, Scaled]:
    """The tensors whose names begin with `prefix`, by the rest of the name, with the FP8 scales applied to them.

    Raises WeightFileError for scales of a form that is not read here.
    """
    tensors = {name[len(prefix) :]: tensor for name, tensor in header.tensors.items() if name.startswith(prefix)}
    scales = {}
    for name in list(tensors):
        for ending in SCALES:
            if name.endswith(ending):
                scales[name.removesuffix(ending) + ".weight"] = _scale(header, tensors.pop(name))
    return {
        name: Scaled(tensor, scales.get(name, 1.0)) for name, tensor in tensors.items() if not name.endswith(UNUSED)
    }


def _scale(header: WeightFile, tensor: FileTensor) -> float:
    if prod(tensor.shape) != 1:
        raise WeightFileError(
            f"{header.path}: the scale {tensor.name} is {tensor.stored} {list(tensor.shape)}. Weights with one scale "
            "each (scaled FP8) are read here; NVFP4, MXFP8 and INT8 forms are not. Use an FP8 or GGUF file."
        )
    scale = float(read_parameter(parameter_of(header, tensor, tensor.name)).reshape(()))
    if not isfinite(scale):
        raise WeightFileError(
            f"{header.path}: the scale {tensor.name} is {scale}. The file is damaged: download it again."
        )
    return scale


def blocks(names: Iterable[str], stem: str) -> range:
    """One index for each block `stem`.N. that the names speak of."""
    numbered = re.compile(re.escape(stem) + r"\.([0-9]+)\.")
    return range(len({found[1] for found in map(numbered.match, names) if found}))


def weight_set(
    header: WeightFile, model: str, tensors: dict[str, Scaled], required: Iterable[str], optional: Iterable[str] = ()
) -> WeightSet:
    """The set of tensors (by parameter name) that the `model` uses; raises WeightFileError when one is missing."""
    needed = list(required)
    missing = [name for name in needed if name not in tensors]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise WeightFileError(
            f"{header.path} seems to be a {model} but lacks {', '.join(missing[:3])}{more}. The file is incomplete or "
            "of a variant that is not known here: use the complete model in one file."
        )
    used = needed + [name for name in optional if name in tensors]
    unused = tensors.keys() - set(used)
    if unused:
        log.info("%s: %d tensors are not used by a %s, such as %s", header.path, len(unused), model, min(unused))
    parameters = {name: parameter_of(header, tensors[name].tensor, name, tensors[name].scale) for name in used}
    return WeightSet(model, parameters, ((header.path, header.size, header.mtime_ns),))


def affine(*layers: str) -> list[str]:
    """The weight and the bias of each layer."""
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
