"""Functions that other nodes put into a model, between its layers.

A function is traced with the model where what it keeps are tensors that the layers give it. One that reads what it has
kept, asks for values that the model computes, or has weights of its own is called by torch on the host at every step,
between two programs: an island. What can be neither is refused.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from ...native.trace import as_one_step
from .kept_values import Same, unless_it_fails

OPTIONS = ("patches", "patches_replace", "optimized_attention_override")
_BLOCKS = "dit"  # of patches_replace: functions that call a block of the model, which are no islands
Function = Callable[..., Any]
AsOptions = Callable[[dict[str, Any]], dict[str, Any]]


def functions_in(options: Mapping[str, Any]) -> list[Function]:
    """The functions of other nodes in transformer_options, each once."""
    found: dict[int, Function] = {}
    for name in OPTIONS:
        for function in _callables(options.get(name)):
            found[id(function)] = function
    return list(found.values())


def around_blocks(options: Mapping[str, Any]) -> list[Function]:
    """Those among them that call a block of the model, and so cannot be islands."""
    replaced = options.get("patches_replace")
    return list(_callables(replaced.get(_BLOCKS))) if isinstance(replaced, dict) else []


def _callables(value: Any) -> Iterator[Function]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _callables(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _callables(item)
    elif callable(value):
        yield value


def name_of(function: Function) -> str:
    """Where a function comes from, such as "PerturbedAttentionGuidance.execute.perturbed_attention of nodes_pag"."""
    inner = getattr(function, "__func__", function)
    inner = inner.func if isinstance(inner, partial) else inner
    kind = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{kind.__qualname__.replace('.<locals>', '')} of {kind.__module__.rpartition('.')[2]}"


def reads(function: Function, option: str) -> bool:
    """Whether the code of a function, or of one in it, names an option."""
    inner = getattr(function, "__func__", function)
    inner = inner.func if isinstance(inner, partial) else inner
    code = getattr(inner, "__code__", None) or getattr(vars(type(inner)).get("__call__"), "__code__", None)
    return code is not None and _names(code, option)


def _names(code: types.CodeType, option: str) -> bool:
    return any(each == option or (isinstance(each, types.CodeType) and _names(each, option)) for each in code.co_consts)


def is_traced(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a call are those of a trace."""
    return any(isinstance(tensor, FakeTensor) for tensor in tensors.values())


def for_a_trace(
    options: dict[str, Any], as_options: AsOptions, islands: Collection[Same], live: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Options with functions in the place of those of other nodes, for a trace.

    as_options: makes of a dictionary that a function is given one in which it is noticed what is read. islands: the
    functions that are called at every step instead of traced; live: the transformer_options at that time.
    """

    def adapted(value: Any, place: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {key: adapted(item, (*place, str(key))) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(adapted(item, place) for item in value)
        if not callable(value):
            return value
        if Same(value) in islands and _BLOCKS not in place:
            return _island(value, live)
        return _traced(value, as_options)

    return {name: adapted(value, (name,)) if name in OPTIONS else value for name, value in options.items()}


def _traced(function: Function, as_options: AsOptions) -> Function:
    def call(*args: Any, **kwargs: Any) -> Any:
        plain = [as_options(each) if type(each) is dict else each for each in args]
        return function(
            *plain, **{key: as_options(each) if type(each) is dict else each for key, each in kwargs.items()}
        )

    return call


def _island(function: Function, live: Callable[[], Mapping[str, Any]]) -> Function:
    """A function as one step of a trace. Of the options that it is given those of the step itself count."""

    def called(args: Any, kwargs: Any) -> Any:
        def current(value: Any) -> Any:
            if isinstance(value, _Options):
                return {**live(), **value.static, **value.traced}
            return {key: current(each) for key, each in value.items()} if type(value) is dict else value

        with torch.no_grad(), unless_it_fails(function) if is_any_fake((args, kwargs)) else nullcontext():
            return function(*map(current, args), **{key: current(each) for key, each in kwargs.items()})

    def call(*args: Any, **kwargs: Any) -> Any:
        def static(value: Any) -> Any:
            if not isinstance(value, dict):
                return value
            if _holds_activations(value):
                return {key: static(each) if key == "transformer_options" else each for key, each in value.items()}
            plain = _Static({key: each for key, each in value.items() if not _tensors_in(each)})
            traced: dict[str, Tensor] = {
                key: each for key, each in value.items() if isinstance(each, FakeTensor) and key not in live()
            }
            return _Options(plain, traced)

        given = [static(each) for each in args], {key: static(each) for key, each in kwargs.items()}
        return as_one_step(name_of(function), called, given)

    return call


def in_one_step(function: Function) -> Function:
    """A function of core's that torch computes on the host as one step of a trace; outside one it is called."""

    def called(args: Any, kwargs: Any) -> Any:
        return function(*args, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = args, kwargs
        return as_one_step(name_of(function), called, given) if is_any_fake(given) else called(*given)

    return call


def is_any_fake(value: Any) -> bool:
    """Whether a tensor of a trace is in a value."""
    return any(isinstance(each, FakeTensor) for each in tree_leaves(value))


class _Static(dict[str, Any]):
    """Options that a block of the model adds, without tensors; a leaf to torch's pytree."""


class _Options(NamedTuple):
    """Options that a function is given. traced: tensors that functions before it have put there."""

    static: _Static
    traced: dict[str, Tensor]


_ACTIVATIONS = ("img", "txt", "x", "vec")


def _holds_activations(value: dict[str, Any]) -> bool:
    """Whether a dictionary is what a block of a transformer gives its patches, not options."""
    return any(isinstance(value.get(name), Tensor) for name in _ACTIVATIONS)


def _tensors_in(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(map(_tensors_in, items))


@contextmanager
def methods_replaced(core: torch.nn.Module, methods: Mapping[str, Function], component: object) -> Iterator[None]:
    """Core's module with other methods; those bound to its component are bound to the module itself."""
    for name, method in methods.items():
        bound = isinstance(method, types.MethodType) and method.__self__ is component
        vars(core)[name] = types.MethodType(method.__func__, core) if bound else method  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name in methods:
            vars(core).pop(name, None)


def refusal(functions: Collection[Function], does: str) -> NotImplementedError:
    """The error for functions of other nodes that a GGML model cannot take; does: why not."""
    names = ", ".join(dict.fromkeys(map(name_of, functions)))
    return NotImplementedError(
        f"A node in this workflow puts a function of its own into the model ({names}). It {does}. A GGML model "
        "runs in another process, where that cannot be done: remove that node, or load the model with ComfyUI's own "
        "loader."
    )
