"""Samples of torch's OpInfos as programs: each is traced and lowered alone, those of one OpInfo run together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from native.lower import Lowered, LowerOptions, WeightType, lower
from native.program import Output, Program
from native.trace import trace
from tests import pack

pack.comfy()
import comfy.quant_ops  # noqa: E402, F401  (registers comfy_kitchen's operations)

OP_INFOS: dict[str, OpInfo] = {op.full_name: op for op in op_db}
STRIDED = 3  # of so many samples one comes besides with a gap after each element of its tensors
ALONE = LowerOptions(islands=False)  # what a handler cannot do is an error here


@dataclass(frozen=True)
class Sample:
    """A call of an operation: its floats are parameters of a module, its whole numbers and truths inputs of the host.

    wanted: what torch gives. call: of the module and the inputs, as engines trace it.
    """

    name: str
    call: Callable[[Any, Mapping[str, torch.Tensor]], tuple[torch.Tensor, ...]]
    parameters: dict[str, torch.Tensor]
    inputs: dict[str, torch.Tensor]
    wanted: tuple[torch.Tensor, ...]

    def module(self) -> torch.nn.Module:
        """A module with the parameters, which some operations change."""
        module = torch.nn.Module()
        for name, values in self.parameters.items():
            module.register_parameter(name, torch.nn.Parameter(values.clone(), requires_grad=False))
        return module


@dataclass(frozen=True)
class Case:
    """A sample with its program, or with why it has none; operations: the names of its trace."""

    sample: Sample
    lowered: Lowered | None
    error: str
    operations: frozenset[str]


@cache
def cases(name: str) -> tuple[Case, ...]:
    """Every sample of an OpInfo, in place too where it has such a form, some strided, traced and lowered."""
    torch.manual_seed(1)
    return tuple(_case(sample) for sample in _samples(OP_INFOS[name]))


def _samples(op: OpInfo) -> Iterator[Sample]:
    for number, sample in enumerate(op.sample_inputs("cpu", torch.float32, requires_grad=False)):
        made = _sample(f"{op.full_name} {number}: {_text(sample)}", op.op, sample)
        if made is not None:
            yield made
        if number % STRIDED == 0:
            made = _sample(f"{op.full_name} {number}, strided: {_text(sample)}", op.op, sample.noncontiguous())
            if made is not None:
                yield made
        if op.inplace_variant is not None and not sample.broadcasts_input and isinstance(sample.input, torch.Tensor):
            made = _sample(
                f"{op.full_name} {number}, in place: {_text(sample)}", _on_a_copy(op.inplace_variant), sample
            )
            if made is not None:
                yield made


def _on_a_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: function(x.clone(), *args, **kwargs)


def _text(sample: SampleInput) -> str:
    """The arguments, tensors as their types and shapes."""

    def short(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        return value

    shown = tree_map(short, (sample.input, *sample.args))
    return ", ".join([*map(str, shown), *(f"{key}={short(value)}" for key, value in sample.kwargs.items())])


def _elements(x: torch.Tensor) -> torch.Tensor:
    """A tensor's own values, or, where it is not contiguous, all of its storage from its first element to its last."""
    if x.is_contiguous():
        return x.detach().clone()
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.detach().as_strided((1 + last,), (1,)).clone()


def _sample(name: str, function: Callable[..., Any], sample: SampleInput) -> Sample | None:
    """A sample of a function; None where torch itself has no result for it, as of some in place."""
    leaves, structure = tree_flatten((sample.input, sample.args, sample.kwargs))
    tensors = {f"t{i}": _elements(leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)}
    parameters = {key: x for key, x in tensors.items() if x.is_floating_point()}
    inputs = {key: x for key, x in tensors.items() if key not in parameters}

    def call(module: Any, given: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        held = list(leaves)
        for key in tensors:
            i = int(key[1:])
            x = getattr(module, key) if key in parameters else given[key]
            held[i] = x if leaves[i].is_contiguous() else x.as_strided(leaves[i].shape, leaves[i].stride())
        first, args, kwargs = tree_unflatten(held, structure)
        results = tree_flatten(function(first, *args, **kwargs))[0]
        return tuple(x for x in results if isinstance(x, torch.Tensor))

    made = Sample(name, call, parameters, inputs, ())
    try:
        with torch.no_grad():
            wanted = call(made.module(), {key: x.clone() for key, x in inputs.items()})
    except RuntimeError:
        return None
    return replace(made, wanted=tuple(x.clone() for x in wanted))


def _case(sample: Sample) -> Case:
    """Any error of the tracing or lowering is kept: the table says which are expected."""
    names: frozenset[str] = frozenset()
    try:
        traced = trace("a sample", sample.module(), sample.call, sample.inputs)
        names = frozenset(step.name for step in traced.steps)
        types = {key: WeightType("F32", tuple(x.shape)) for key, x in sample.parameters.items()}
        return Case(sample, lower(traced, types, ALONE), "", names)
    except Exception as error:
        return Case(sample, None, f"{type(error).__name__}: {error}", names)


def together(parts: Sequence[Case]) -> tuple[Program, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Programs as one, the names of whose leaves begin with a number each; its weights, and its host inputs."""
    tensors, outputs, constants = [], [], {}
    weights: dict[str, np.ndarray] = {}
    inputs: dict[str, np.ndarray] = {}
    for number, case in enumerate(parts):
        assert case.lowered is not None
        program, first = case.lowered.program, len(tensors)
        for t in program.tensors:
            name = t.name if t.kind == "op" else f"{number}.{t.name}"
            tensors.append(replace(t, name=name, sources=tuple(first + source for source in t.sources)))
            if t.kind == "weight":
                weights[name] = case.sample.parameters[t.name].numpy()
        outputs += [Output(first + output.tensor, output.shape) for output in program.outputs]
        constants |= {f"{number}.{key}": values for key, values in program.constants.items()}
        inputs |= {f"{number}.{key}": values for key, values in case.lowered.host(case.sample.inputs).items()}
    return Program(tuple(tensors), tuple(outputs), constants), weights, inputs


def widened(sample: Sample, dims: Mapping[str, int]) -> Sample:
    """A sample some of whose arguments are 32 times as wide along a dimension."""
    wide = {
        key: torch.cat([x * (1 + i / 32) for i in range(32)], dims[key]) if key in dims else x
        for key, x in sample.parameters.items()
    }
    return replace(sample, parameters=wide)


def stored(sample: Sample, weight: str, values: torch.Tensor, type_: str) -> Case:
    """A sample whose weight has these values and this type on the device."""
    held = replace(sample, parameters={**sample.parameters, weight: values})
    with torch.no_grad():
        held = replace(held, wanted=held.call(held.module(), held.inputs))
    types = {key: WeightType(type_ if key == weight else "F32", tuple(x.shape)) for key, x in held.parameters.items()}
    return Case(held, lower(trace("a sample", held.module(), held.call, held.inputs), types, ALONE), "", frozenset())
