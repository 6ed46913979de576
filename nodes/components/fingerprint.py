"""Values, modules, functions and classes as JSON that is the same in each session, and that no other value has."""

from __future__ import annotations

import contextvars
import hashlib
import logging
import sys
import threading
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from functools import cached_property, partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from ...native.placement import MIB

OWN = __name__.rpartition(".nodes.components")[0]  # this pack, under the name that ComfyUI has given it
MODELS = ("comfy", "comfy_kitchen", "torch.nn", "torch.functional")  # whose code traces are made of
BELOW = ("torch", "einops", "numpy", "sympy", "mpmath", "typing_extensions", *sys.stdlib_module_names)  # and built on
_MOST_BYTES = 64 * MIB  # of tensors with values
_DEPTH = 3  # of functions that functions hold, as decorators do
_PLAIN = (type(None), bool, int, float, str, bytes, complex, range, slice, type(...), type(NotImplemented))
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType,
             types.MethodWrapperType, types.ClassMethodDescriptorType, types.GetSetDescriptorType,
             types.MemberDescriptorType)  # fmt: skip
_BOUND: Any = torch._C._get_tracing_state  # as any function of torch's libraries
_OF_C = (type(_BOUND.__self__),)  # what such are bound to
_OLD_TENSORS = type(torch.FloatTensor)  # of classes that make a torch.Tensor; the names in them are its own again
_MAPPINGS = (dict, OrderedDict, defaultdict, types.MappingProxyType)
_WITHOUT_EFFECT = (logging.Logger, type(threading.Lock()), type(threading.RLock()))  # on what is computed
_OF_CLASSES = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate__", "_abc_impl",
               "__parameters__", "__orig_bases__", "__firstlineno__", "__static_attributes__", "__abstractmethods__",
               "__annotate_func__", "__annotations_cache__", "__dataclass_params__", "__dataclass_fields__",
               "__match_args__"}  # fmt: skip


class Uncertain(Exception):
    """A thing that a trace hangs on cannot be told for certain."""


def is_of(module: str, packages: Collection[str]) -> bool:
    """Whether a module is one of these packages or in one."""
    return any(module == each or module.startswith(f"{each}.") for each in packages)


def home(module: str) -> str:
    """A module's name, for this pack's under a name that is the same everywhere."""
    return f"pack{module[len(OWN) :]}" if is_of(module, (OWN,)) else module


def is_below(module: str) -> bool:
    """Whether a module is one that models are built on."""
    return module.partition(".")[0] in BELOW and not is_of(module, MODELS)


def described(value: Any, weights: Collection[int] = (), names: Collection[str] = ()) -> Any:
    """A value as JSON. weights: by id, tensors whose values do not count. names: that are looked up in modules."""
    return _Description(weights, names).all(value)


_codes: dict[int, tuple[types.CodeType, str]] = {}  # digests, by id


def code_digest(code: types.CodeType) -> str:
    """The digest of a function's compiled code, without its place and its name."""
    known = _codes.get(id(code))
    if known is None:
        found = (
            code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags,
            code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount,
            getattr(code, "co_exceptiontable", b""), _constants(code.co_consts),
        )  # fmt: skip
        known = _codes[id(code)] = code, hashlib.sha256(repr(found).encode(errors="replace")).hexdigest()[:32]
    return known[1]


def _constants(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return code_digest(value)
    if isinstance(value, tuple):
        return "tuple", *map(_constants, value)
    return ("set", *sorted(map(repr, value))) if isinstance(value, frozenset) else (type(value).__name__, repr(value))


def functions_of(value: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """A function of Python or of C, and those that it holds as decorators do."""
    if isinstance(value, (staticmethod, classmethod, types.MethodType)):
        yield from functions_of(value.__func__, depth)
    elif isinstance(value, property):
        for each in (value.fget, value.fset):
            yield from functions_of(each, depth)
    elif isinstance(value, types.FunctionType):
        yield value
        for cell in (value.__closure__ or ()) if depth else ():
            yield from functions_of(_content(cell), depth - 1)
    elif isinstance(value, partial):
        yield from functions_of(value.func, depth)
    elif isinstance(value, _BUILT_IN):
        yield value
    elif depth and hasattr(type(value), "cache_info"):  # of functools.cache
        yield from functions_of(value.__wrapped__, depth - 1)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def functions_in(module: types.ModuleType) -> Any:
    """The functions that a module and its classes have, each in its place, by the line that it is written in.

    For modules of which versions tell what is in their files. Other values than functions do not count.
    """
    found: list[Any] = []

    def look(place: str, value: Any) -> None:
        if isinstance(value, type):
            if value.__module__ != module.__name__ or type(value) is _OLD_TENSORS or place.count(".") > _DEPTH:
                found.append([place, value.__module__, value.__qualname__])
                return
            for name, each in list(vars(value).items()):
                look(f"{place}.{name}", each)
        for each in functions_of(value):
            code = getattr(each, "__code__", None)
            where = str(getattr(each, "__module__", None)), each.__qualname__
            found.append([place, *where, code and [code.co_filename, code.co_firstlineno, code.co_name]])
        if callable(value) and not isinstance(value, (type, types.FunctionType, *_BUILT_IN)):
            found.append([place, type(value).__qualname__])

    for name, value in list(vars(module).items()):
        look(name, value)
    return sorted(found, key=itemgetter(0))  # a place has what it holds in the order of its decorators


class _Description:
    """Makes JSON of values: a list of objects, in which each has a number that stands for it in the others."""

    def __init__(self, weights: Collection[int], names: Collection[str]) -> None:
        self._weights = weights
        self._names = names
        self._numbers: dict[int, int] = {}
        self._objects: list[Any] = []
        self._left = _MOST_BYTES

    def all(self, value: Any) -> list[Any]:
        """A value and all that it has."""
        return [self.of(value), *(self._described(each) for each in self._objects)]  # which grow meanwhile

    def of(self, value: Any) -> Any:
        """A value as JSON that no other value has."""
        kind = type(value)
        if kind in _PLAIN or kind in _NAMED:
            return value if kind in (bool, int, str, type(None)) else [kind.__name__, repr(value)]
        if kind in _WITHOUT_EFFECT:
            return ["without effect", kind.__name__]
        if kind.__module__ == "typing" or kind in (types.GenericAlias, types.UnionType):
            return ["typing", repr(value)]
        if kind in (tuple, torch.Size):
            return [kind.__name__, *map(self.of, value)]
        if isinstance(value, Enum):
            return ["enum", self.of(kind), value.name]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return ["object", self._numbers[id(value)]]

    def _described(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return self._values(value)
        if isinstance(value, types.ModuleType):
            held = vars(value)
            known = sorted(name for name in self._names if name in held)
            return ["module", value.__name__, *([name, self.of(held[name])] for name in known)]
        if kind is object:
            return ["mark"]
        if value is sys.modules:
            return ["modules"]
        if kind in (list, deque):
            return [kind.__name__, *map(self.of, value)]
        if kind in _MAPPINGS:
            return [kind.__name__, *([self.of(key), self.of(item)] for key, item in value.items())]
        if kind in (set, frozenset):
            if any(type(each) not in _PLAIN for each in value):
                raise Uncertain("a set of objects")
            return [kind.__name__, *sorted(map(repr, value))]
        if isinstance(value, contextvars.ContextVar):
            return ["context", value.name, self.of(value.get(None))]
        return self._callable(value) or self._instance(value)

    def _callable(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return ["method", self.of(value.__self__), self.of(value.__func__)]
        if isinstance(value, (staticmethod, classmethod)):
            return [kind.__name__, self.of(value.__func__)]
        if isinstance(value, property):
            return ["property", self.of(value.fget), self.of(value.fset)]
        if isinstance(value, cached_property):
            return ["cached property", self.of(value.func)]
        if isinstance(value, _BUILT_IN):
            owner = getattr(value, "__objclass__", None) or getattr(value, "__self__", None)
            bound = owner is not None and not isinstance(owner, (type, types.ModuleType, *_OF_C))
            name = getattr(owner, "__name__", None) or getattr(value, "__module__", None)
            return ["built in", name, value.__qualname__, *([self.of(owner)] if bound else [])]
        if isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            return ["operation", str(value)]
        if kind is partial:
            return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if hasattr(kind, "cache_info"):  # of functools.cache, whose values stand for code that does not run then
            if value.cache_info().currsize and not is_below(value.__module__):
                raise Uncertain(f"{value.__qualname__} has kept results")
            return ["cached", self.of(value.__wrapped__)]
        return None

    def _function(self, function: types.FunctionType) -> Any:
        """A function by its code, with what it holds; code that is below models may hold what has no description."""
        where = home(str(function.__globals__.get("__name__")))
        held: list[Any] = [function.__defaults__, function.__kwdefaults__]
        held += [_content(cell) for cell in function.__closure__ or ()]
        found = ["function", where, function.__qualname__, code_digest(function.__code__)]
        if is_below(where):
            return [*found, *(self.of(each) for value in held for each in functions_of(value))]
        return [*found, *map(self.of, held), *self._attributes(vars(function))]

    def _class(self, kind: type) -> Any:
        """A class by its name and bases, one that is not below models by all that is in it besides."""
        if kind.__module__ == "builtins":
            return ["class", kind.__qualname__]
        where = home(kind.__module__)
        found = ["class", where, kind.__qualname__, *map(self.of, kind.__bases__)]
        if issubclass(kind, Enum):
            return [*found, [[each.name, repr(each.value)] for each in kind]]
        if is_below(where):
            return found
        return [*found, *self._attributes({k: v for k, v in list(vars(kind).items()) if k not in _OF_CLASSES})]

    def _instance(self, value: Any) -> Any:
        """Anything with attributes of its own and nothing besides them."""
        kind = type(value)
        if isinstance(value, torch.nn.Module):
            return ["part", self.of(kind), *self._attributes(vars(value), skip_empty=True)]
        if isinstance(value, tuple):
            return ["named", self.of(kind), *map(self.of, tuple(value))]
        slots = any(vars(each).get("__slots__") for each in kind.__mro__)
        built_in = any(each.__module__ == "builtins" and each is not object for each in kind.__mro__)
        if not hasattr(value, "__dict__") or slots or built_in:
            raise Uncertain(f"{kind.__module__}.{kind.__qualname__}")
        return ["object", self.of(kind), *self._attributes(vars(value))]

    def _attributes(self, held: Mapping[str, Any], skip_empty: bool = False) -> Iterator[Any]:
        for name, value in list(held.items()):
            if not (skip_empty and name.startswith("_") and isinstance(value, (dict, set)) and not value):
                yield [name, self.of(value)]

    def _values(self, value: torch.Tensor | np.ndarray) -> Any:
        """A tensor without values by its shape; one with values by these too."""
        weight = id(value) in self._weights
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "fiub":
                raise Uncertain(f"an array of {value.dtype}")
            value = torch.from_numpy(value.copy())
        if type(value) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer) or value.layout is not torch.strided:
            raise Uncertain(f"a {type(value).__name__} of layout {value.layout}")
        shape = [type(value).__name__, list(value.shape), list(value.stride()), str(value.dtype), str(value.device)]
        if weight or value.is_meta or value.numel() == 0:
            return shape
        self._left -= value.nbytes
        if self._left < 0 or value.is_conj() or value.is_neg():
            raise Uncertain("a large tensor with values")
        with torch.inference_mode(False):
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return [*shape, hashlib.sha256(flat.numpy().data).hexdigest()]
