"""A component whose methods are those of core's module, each traced and computed by the engine when it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ...native.trace import OfPart, TraceError, known_value
from ...native.weights import WeightSet, read_parameter
from . import foreign_functions, kept_values
from .attention_override import own_attention
from .call_arguments import join, part
from .component import Component, Function, layers_elsewhere
from .kept_programs import keep_reads, known_reads, nesting_as_values, nesting_of, storable
from .kept_values import KeepsValues, Kept, Left, ReadsKept, Same, Settled
from .layers import HostLayer, Layer, LayerWeights, is_plain

_COMPUTED = ("_forward",)  # our methods that only have core's of the same name computed
_WHOLE = ("forward", *_COMPUTED)  # methods of the model itself, which are traced or refused
# How the results of a call are nested, with types where it has tensors, and what functions of other nodes keep of it:
# also of calls that another component of the same module has traced.
_nestings: dict[Hashable, tuple[TreeSpec, list[Any], list[Left]]] = {}
_marks: dict[Hashable, dict[str, Tensor]] = {}  # that the module notes of a call with tensors of these shapes


class _ReadsMore(Exception):
    """The module reads an option that its trace was not given."""


@dataclass(frozen=True, eq=False)
class _Method:
    """A method of core's module, computed by the engine."""

    module: TracedModule
    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.call(self.name, args, kwargs)


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


def _forms(call: dict[str, Any]) -> Hashable:
    """The content of the arguments of a call, and how often their tensors were written to."""
    tensors: dict[str, Tensor] = {}
    return part(call, "", tensors), tuple(each._version for each in tensors.values())


def _shapes(tensors: Mapping[str, Tensor]) -> Hashable:
    return tuple((at, tuple(x.shape)) for at, x in tensors.items())


def _noted(core: torch.nn.Module, before: Mapping[str, Any]) -> dict[str, Tensor]:
    """Marks that a module notes as its attributes, for whoever called it to read: whole numbers and truth values."""
    new = {name: x for name, x in vars(core).items() if isinstance(x, Tensor) and before.get(name) is not x}
    values = {name: known_value(x) for name, x in new.items() if not x.is_floating_point()}
    return {name: x for name, x in values.items() if x is not None}


class TracedModule(Component):
    """Stands for any module of core."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Component."""
        super().__init__(*args, **kwargs)
        self._reads: set[str] = set()  # the names of the transformer_options that the module reads
        self._asked: set[str] = set()  # methods of which it was looked up what they read in an earlier session
        self._methods: dict[str, Callable[..., Any]] = {}  # that other nodes have put in the place of the module's
        self._islands: set[Same] = set()  # functions of other nodes that are called at every step
        self._on_host: set[str] = set()  # methods that ask for what the model computes, and cannot be traced whole
        self._live: Mapping[str, Any] = {}  # the transformer_options of the call that is being computed

    def __getattr__(self, name: str) -> Any:
        """A setting of core's module, what stands for a layer, or a method, which the engine computes."""
        core = self.__dict__["engine_model"].module if "engine_model" in self.__dict__ else None
        if core is None or name.startswith("__") or not hasattr(core, name):
            return super().__getattr__(name)
        value = getattr(core, name)
        if isinstance(value, torch.nn.Module):
            return self._layer(value, name)
        if not inspect.ismethod(value) or value.__self__ is not core:
            return value
        return self._methods.get(name) or self._method(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """As torch.nn.Module's; a function in the place of a method of core's module takes part in its traces."""
        if not self._is_method(name):
            super().__setattr__(name, value)
        elif isinstance(value, _Method) and value.module is self:
            self._methods.pop(name, None)
        else:
            self._methods[name] = value

    def __delattr__(self, name: str) -> None:
        """As torch.nn.Module's; core's own method counts again."""
        if name in self.__dict__.get("_methods", ()):
            del self._methods[name]
        else:
            super().__delattr__(name)

    def _is_method(self, name: str) -> bool:
        """Whether core's module has a method of this name that is none of ours."""
        if "_methods" not in self.__dict__ or (hasattr(type(self), name) and name not in _COMPUTED):
            return False
        return inspect.ismethod(getattr(self.engine_model.module, name, None))

    @contextmanager
    def _with_foreign(
        self, core: Any, functions: list[Callable[..., Any]], islands: list[Callable[..., Any]]
    ) -> Iterator[Kept]:
        """Within it core's module has other nodes' methods, and these functions are as for a trace.

        Raises NotImplementedError where a method, being traced, changes the module.
        """
        with (
            foreign_functions.methods_replaced(core, self._methods, self),
            kept_values.traced(functions, islands) as kept,
        ):
            methods = list(self._methods.values()) if functions or islands else []
            before = kept_values.kept_by_module(core) if methods else ()
            yield kept
            if methods and kept_values.kept_by_module(core) != before:
                raise foreign_functions.refusal(methods, "keeps values in the model")

    def _layer(self, layer: torch.nn.Module, name: str) -> Any:
        """The stand-in for a layer: core's classes read shapes and settings of layers, and nodes call single ones."""
        return Layer(layer, name, self)

    def weights_now(self) -> WeightSet:
        """Its weights, with what nodes have changed. Raises NotImplementedError where that is beside them."""
        if self.engine_model.has_branches:
            raise layers_elsewhere("takes weights of a model that has a LoRA")
        return self.engine_model.weights

    def value_of(self, name: str) -> Tensor | None:
        """As Owner's."""
        weights = self.weights_now()
        held = weights.arrays.get(name)
        if held is not None:
            return torch.from_numpy(held if isinstance(held, np.ndarray) else held.compute()).float().clone()
        found = weights.parameters.get(name)
        return None if found is None else torch.from_numpy(read_parameter(found))

    def take(self, path: str, given: LayerWeights) -> tuple[list[str], list[str]]:
        """Compute with another layer's weights in the place of those of the layer there; as load_state_dict."""
        taken = {name: array for name, array in given.under(path) if name in self._names}
        self.taken = {**self.taken, **taken}
        self.set_patches({}, 1.0)
        return [], []

    def _method(self, name: str) -> Callable[..., Any]:
        return _Method(self, name)

    def call(self, name: str, args: Any, kwargs: Any) -> Any:
        """A method of core's module or of a layer of it, computed by the engine.

        Results have the type of the first float that goes in, numbers of things and truth values their own.
        """
        if self.joined_to is not None and foreign_functions.is_any_fake((args, kwargs)):
            return attrgetter(name)(self.engine_model.module)(*args, **kwargs)
        brings_model = any(isinstance(each, Component) for each in (*args, *kwargs.values()))
        if name in self._on_host or brings_model or (name not in _WHOLE and not is_plain((args, kwargs))):
            return self._by_layers(name, args, kwargs)
        signature = inspect.signature(attrgetter(name)(self.engine_model.module))
        open_ended = any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values())
        bound = {} if open_ended else signature.bind(*args, **kwargs).arguments
        arguments = {"": args, **kwargs} if open_ended else bound | bound.pop("kwargs", {})
        options = arguments.pop("transformer_options", None)
        self._live = options or {}
        if options and name not in self._asked:
            self._asked.add(name)
            self._reads.update(known_reads(type(self.engine_model.module), name))
        foreign = [*foreign_functions.functions_in(options or {}), *self._methods.values()]
        if foreign:
            self._reads |= set(foreign_functions.OPTIONS)
            self._islands |= {Same(each) for each in foreign if not all(map(self._has, kept_values.modules_of(each)))}
        settled: list[Callable[..., Any]] = []
        while True:
            try:
                return self._computed(name, arguments, options, foreign)
            except _ReadsMore:
                continue
            except (KeepsValues, ReadsKept) as error:
                keeping = error.functions if isinstance(error, KeepsValues) else kept_values.holding_left(foreign)
                self._make_islands(keeping, "keeps values from one step to the next")
            except Settled as error:
                if any(each in settled for each in error.functions):
                    self._make_islands(error.functions, "has another model compute at every step")
                settled += error.functions
            except TraceError as error:
                if not foreign and name not in _WHOLE:
                    self._on_host.add(name)
                    return self._by_layers(name, args, kwargs)
                if not foreign:
                    raise
                self._make_islands(foreign, f"asks for values that the model computes ({error})")
            except DataDependentOutputException:
                if not foreign:
                    raise
                self._make_islands(foreign, "computes with a model of its own")

    def _has(self, module: torch.nn.Module) -> bool:
        """Whether programs of this component compute another module."""
        return isinstance(module, Component) and module.joined_to is self

    def _by_layers(self, name: str, args: Any, kwargs: Any) -> Any:
        """Core's own code, whose layers the engine has: of a method that asks for values, or is given what keeps some.

        Or another model, as ControlNets are that compute with layers of the diffusion model: each computes its own.
        """
        path, _, method = name.rpartition(".")
        layer = self.engine_model.module.get_submodule(path)
        return getattr(type(layer), method)(HostLayer(layer, path, self), *args, **kwargs)

    def _make_islands(self, functions: Sequence[Callable[..., Any]], does: str) -> None:
        """Have functions of other nodes called at every step; raises NotImplementedError where they already are."""
        within = {Same(each) for each in (*self._methods.values(), *foreign_functions.around_blocks(self._live))}
        more = {Same(each) for each in functions} - self._islands - within
        if not more:
            raise foreign_functions.refusal(functions, does)
        self._islands |= more

    def _computed(
        self, name: str, arguments: dict[str, Any], options: dict[str, Any] | None, foreign: list[Callable[..., Any]]
    ) -> Any:  # fmt: skip
        tensors: dict[str, Tensor] = {}
        given = None if options is None else {each: options[each] for each in sorted(self._reads) if each in options}
        structure = part({**arguments, "transformer_options": given}, "", tensors)
        # A trace has float32 alone, but what a module makes of a timestep may be rounded to the type that it comes in.
        rounded = {
            at: x.dtype for at, x in tensors.items() if x.ndim == 1 and x.dtype in (torch.bfloat16, torch.float16)
        }
        islands = [each for each in foreign if Same(each) in self._islands]
        functions = [each for each in foreign if Same(each) not in self._islands]
        kept, form = kept_values.kept_by(*functions), kept_values.form_of(*islands)
        key = name, structure, tuple(rounded.items()), frozenset(map(Same, islands)), tuple(self._methods), kept, form

        def function(core: Any, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
            call = join(structure, {at: x.to(rounded.get(at, x.dtype)) for at, x in tensors.items()})
            own = call.pop("transformer_options")
            traced = foreign_functions.is_traced(tensors)
            if options is not None and not traced:
                call["transformer_options"] = {**options, **own}
            elif options is not None:
                noted = partial(_Options, withheld=options.keys(), reads=self._reads)
                call["transformer_options"] = noted(
                    foreign_functions.for_a_trace(own, noted, self._islands, lambda: self._live)
                )
            before, attributes = (_forms(call), dict(vars(core))) if traced else ((), {})
            with own_attention(), self._with_foreign(core, *((functions, islands) if traced else ([], []))) as kept:
                flat, nesting = tree_flatten(
                    attrgetter(name)(core)(*call.get("", ()), **{key: each for key, each in call.items() if key})
                )
                left, tensors_left = kept.left()
            if traced:
                _marks[self.engine_model.identity, key, _shapes(tensors)] = _noted(core, attributes)
            if traced and name not in _WHOLE and _forms(call) != before:
                raise TraceError(f"{name} changes what it is given")
            leaves = [x.dtype if isinstance(x, Tensor) else x for x in flat]
            if traced or (self.engine_model.identity, key) not in _nestings:
                _nestings[self.engine_model.identity, key] = nesting, leaves, left
            return tuple(x for x in (*flat, *tensors_left) if isinstance(x, Tensor))

        path = name.rpartition(".")[0]
        traceable: Function = OfPart(path, function) if path and not foreign else function
        if not foreign and not self._joined and self.joined_to is None:
            traceable = self._kept(key, options or {}, function, path, _shapes(tensors))
        return self._nested(key, traceable, tensors, functions)

    def _kept(self, key: Any, options: Mapping[str, Any], function: Function, path: str, shapes: Hashable) -> Function:
        """A function without those of other nodes, whose program may be kept for the next session."""
        name, structure, rounded = key[:3]
        place, marked = (self.engine_model.identity, key), (self.engine_model.identity, key, shapes)
        kind, known = type(self.engine_model.module), frozenset(self._reads)

        def left() -> Any:
            nesting, leaves, _ = _nestings[place]
            keep_reads(kind, name, self._reads)
            return nesting_as_values(nesting), leaves, sorted(self._reads), _marks[marked]

        def recall(kept: Any) -> bool:
            values, leaves, reads, marks = kept
            self._reads.update(reads)
            if any(each in options for each in self._reads - known):  # the key says nothing of their values
                return False
            _nestings[place] = nesting_of(values), leaves, []
            _marks[marked] = marks
            return True

        return storable(self.engine_model, (name, structure, rounded), function, path, left, recall)

    def _nested(
        self, key: Hashable, function: Function, tensors: dict[str, Tensor], functions: list[Callable[..., Any]]
    ) -> Any:  # fmt: skip
        first = next((x for x in tensors.values() if x.is_floating_point()), torch.empty(0))
        computed = self.compute(key, function, tensors)
        nesting, leaves, left = _nestings[self.engine_model.identity, key]
        vars(self).update(_marks.get((self.engine_model.identity, key, _shapes(tensors)), {}))
        results = iter(computed)

        def typed(dtype: torch.dtype) -> Tensor:
            result = next(results)
            computed = dtype.is_floating_point or dtype.is_complex
            return result.to(first) if computed else result.to(first.device, dtype)

        made = tree_unflatten([typed(x) if isinstance(x, torch.dtype) else x for x in leaves], nesting)
        # Torch's engine has called the functions itself: there is no more than their results.
        if len(computed) > sum(isinstance(x, torch.dtype) for x in leaves):
            kept_values.leave(functions, left, typed)
        return made
