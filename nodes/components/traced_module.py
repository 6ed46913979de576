"""A component whose methods are those of core's module, each traced and computed by the engine when it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Hashable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .attention_override import own_attention
from .call_arguments import join, part
from .component import Component

_TENSOR = object()  # where a result has a tensor
# How the results of a call are nested: also of calls that another component of the same module has traced.
_nestings: dict[Hashable, tuple[TreeSpec, list[Any]]] = {}


class _ReadsMore(Exception):
    """The module reads an option that its trace was not given."""


class _Options(dict[str, Any]):
    """transformer_options for a trace: those that the module is known to read. It is noticed when it reads another."""

    def __init__(self, given: dict[str, Any], withheld: Collection[str], reads: set[str]) -> None:
        super().__init__(given)
        self._withheld, self._reads = withheld, reads

    def _read(self, name: str) -> None:
        self._reads.add(name)
        if name in self._withheld and not super().__contains__(name):
            raise _ReadsMore(name)

    def __getitem__(self, name: str) -> Any:
        self._read(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._read(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read(name)
        return super().get(name, default)

    def copy(self) -> _Options:
        return _Options(self, self._withheld, self._reads)


class TracedModule(Component):
    """Stands for any module of core."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Component."""
        super().__init__(*args, **kwargs)
        self._shapes = frozenset((name, tuple(tensor.shape)) for name, tensor in self._names.items())
        self._reads: set[str] = set()  # the names of the transformer_options that the module reads

    def __getattr__(self, name: str) -> Any:
        """A setting of core's module, what stands for a layer, or a method, which the engine computes."""
        core = self.__dict__["engine_model"].module if "engine_model" in self.__dict__ else None
        if core is None or name.startswith("__") or not hasattr(core, name):
            return super().__getattr__(name)
        value = getattr(core, name)
        if isinstance(value, torch.nn.Module):
            return self._layer(value, name)
        return self._method(name) if inspect.ismethod(value) and value.__self__ is core else value

    def _layer(self, layer: torch.nn.Module, name: str) -> Any:
        """The stand-in for a layer; raises NotImplementedError where nothing does."""
        return super().__getattr__(name)

    def _method(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.call(name, args, kwargs)

    def call(self, name: str, args: Any, kwargs: Any) -> Any:
        """A method of core's module or of a layer of it, computed by the engine.

        Results have the type of the first float that goes in.
        """
        signature = inspect.signature(attrgetter(name)(self.engine_model.module))
        open_ended = any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values())
        bound = {} if open_ended else signature.bind(*args, **kwargs).arguments
        arguments = {"": args, **kwargs} if open_ended else bound | bound.pop("kwargs", {})
        options = arguments.pop("transformer_options", None)
        while True:
            try:
                return self._computed(name, arguments, options)
            except _ReadsMore:
                continue

    def _computed(self, name: str, arguments: dict[str, Any], options: dict[str, Any] | None) -> Any:
        tensors: dict[str, Tensor] = {}
        given = None if options is None else {each: options[each] for each in sorted(self._reads) if each in options}
        structure = part({**arguments, "transformer_options": given}, "", tensors)
        # A trace has float32 alone, but what a module makes of a timestep may be rounded to the type that it comes in.
        rounded = {
            at: x.dtype for at, x in tensors.items() if x.ndim == 1 and x.dtype in (torch.bfloat16, torch.float16)
        }
        key = name, structure, tuple(rounded.items())

        def function(core: Any, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
            call = join(structure, {at: x.to(rounded.get(at, x.dtype)) for at, x in tensors.items()})
            own = call.pop("transformer_options")
            if options is not None:
                call["transformer_options"] = _Options(own, options.keys(), self._reads)
            with own_attention():
                flat, nesting = tree_flatten(attrgetter(name)(core)(*call.pop("", ()), **call))
            _nestings[self._shapes, key] = nesting, [_TENSOR if isinstance(x, Tensor) else x for x in flat]
            return tuple(x for x in flat if isinstance(x, Tensor))

        first = next((x for x in tensors.values() if x.is_floating_point()), torch.empty(0))
        results = iter(self.compute(key, function, tensors))
        nesting, leaves = _nestings[self._shapes, key]
        return tree_unflatten([next(results).to(first) if x is _TENSOR else x for x in leaves], nesting)
