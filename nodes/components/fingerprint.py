"""All that a trace of a module hangs on besides its code: classes, settings, shapes, and values of buffers."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch

from ...native.placement import MIB
from ...native.trace.module_part import weights_in
from .loaded_code import OWN, Uncertain, check_code, code_now, is_known

_MOST_BYTES = 64 * MIB  # of buffers with values
_PLAIN = (type(None), bool, int, float, str, bytes, complex, range, slice, type(...))
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator)
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_SEQUENCES = (list, tuple, torch.Size, deque)
_MAPPINGS = (dict, OrderedDict, defaultdict, types.MappingProxyType)


def fingerprint(module: torch.nn.Module, held: Collection[str], *more: Any) -> str:
    """The digest of a module's structure and settings, of the code that runs now, and of other values.

    held: names of tensors that the weights have, of which the module's own values do not count, as for a trace. Raises
    Uncertain where something has no certain description, such as a function of a node's.
    """
    weights = {id(tensor) for tensor in weights_in(module, "", held).values()}
    found = [code_now(), _Description(weights).of((module, more))]
    return hashlib.sha256(json.dumps(found, separators=(",", ":")).encode()).hexdigest()


class _Description:
    """Makes JSON of values; each object once, and a number where it comes again."""

    def __init__(self, weights: Collection[int]) -> None:
        """weights: by id, tensors whose values do not count."""
        self._weights = weights
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # the address of a freed one could be that of another
        self._left = _MOST_BYTES

    def of(self, value: Any) -> Any:
        """A value as JSON that no other value has."""
        kind = type(value)
        if kind in _PLAIN or kind in _NAMED[:-1]:
            return value if kind in (bool, int, str, type(None)) else [kind.__name__, repr(value)]
        if isinstance(value, type):
            return self._once(value, self._class)
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return self._once(value, self._values)
        if isinstance(value, Enum):
            return ["enum", self.of(kind), value.name]
        if isinstance(value, types.ModuleType):
            return ["module", _home(value.__name__)]
        return self._once(value, self._compound)

    def _once(self, value: Any, describe: Any) -> Any:
        if id(value) in self._seen:
            return ["again", self._seen[id(value)]]
        self._seen[id(value)] = len(self._alive)
        self._alive.append(value)
        return describe(value)

    def _compound(self, value: Any) -> Any:
        kind = type(value)
        if kind in _SEQUENCES:
            return [kind.__name__, *map(self.of, value)]
        if kind in _MAPPINGS:
            return [kind.__name__, *([self.of(key), self.of(item)] for key, item in value.items())]
        if kind in (set, frozenset):
            return [kind.__name__, *sorted(json.dumps(_Description(self._weights).of(each)) for each in value)]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return ["method", self.of(value.__self__), self.of(value.__func__)]
        if isinstance(value, (staticmethod, classmethod, property)):
            inner = (value.fget, value.fset) if isinstance(value, property) else value.__func__
            return [kind.__name__, self.of(inner)]
        if isinstance(value, _BUILT_IN):
            return ["built in", _home(value.__module__ or "builtins"), value.__qualname__]
        if isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            return ["operation", str(value)]
        if kind is partial:
            return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, torch.nn.Module):
            return ["part", self.of(kind), *self._attributes(vars(value), skip_empty=True)]
        return self._object(value)

    def _object(self, value: Any) -> Any:
        """Anything with attributes of its own and nothing besides them."""
        kind = type(value)
        if isinstance(value, tuple):
            return ["named", self.of(kind), *map(self.of, tuple(value))]
        slots = any(vars(each).get("__slots__") for each in kind.__mro__)
        built_in = any(each.__module__ == "builtins" and each is not object for each in kind.__mro__)
        if not hasattr(value, "__dict__") or slots or built_in:
            raise Uncertain(f"{kind.__module__}.{kind.__qualname__}")
        return ["object", self.of(kind), *self._attributes(vars(value))]

    def _attributes(self, held: Any, skip_empty: bool = False) -> Iterable[Any]:
        for name, value in list(held.items()):
            if not (skip_empty and name.startswith("_") and isinstance(value, (dict, set)) and not value):
                yield [name, self.of(value)]

    def _class(self, kind: type) -> Any:
        """A class by its name; one that a function makes by what is in it, too, and any by its settings."""
        if kind.__module__ == "builtins":
            return ["class", kind.__qualname__]
        home = _home(kind.__module__)
        found = [home, kind.__qualname__, kind.__name__, *map(self.of, kind.__bases__)]
        if home.partition(".")[0] in ("comfy", "pack"):
            local = "<locals>" in kind.__qualname__
            for name, value in list(vars(kind).items()):
                if (type(value) in _PLAIN and not name.startswith("__")) or (local and callable(value)):
                    found.append([name, self.of(value)])
            found.append(["settings", self.of(_settings(kind.__module__))])
        return ["class", *found]

    def _function(self, function: types.FunctionType) -> Any:
        check_code(function)
        home = _home(function.__module__)
        written = getattr(sys.modules.get(function.__module__), function.__qualname__, None) is function
        if written:
            return ["function", home, function.__qualname__]
        code = function.__code__
        cells = [self.of(cell.cell_contents) if _is_filled(cell) else None for cell in function.__closure__ or ()]
        given = self.of((function.__defaults__, function.__kwdefaults__))
        return ["function", home, function.__qualname__, code.co_firstlineno, code.co_code.hex(), given, cells]

    def _values(self, value: torch.Tensor | np.ndarray) -> Any:
        """A tensor without values by its shape; one with values by these too."""
        weight = id(value) in self._weights
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "fiub":
                raise Uncertain(f"an array of {value.dtype}")
            value = torch.from_numpy(value.copy())
        if type(value) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
            raise Uncertain(f"a {type(value).__name__}")
        shape = [type(value).__name__, list(value.shape), list(value.stride()), str(value.dtype), str(value.device)]
        if weight or value.is_meta or value.numel() == 0:
            return shape
        self._left -= value.nbytes
        if self._left < 0 or value.layout is not torch.strided or value.is_conj() or value.is_neg():
            raise Uncertain("a large tensor with values")
        with torch.inference_mode(False):
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return [*shape, hashlib.sha256(flat.numpy().data).hexdigest()]


def _settings(module: str) -> dict[str, Any]:
    """The plain values of a module, which nodes may change as they can those of a class."""
    held = vars(sys.modules[module]) if module in sys.modules else {}
    return {
        name: value for name, value in list(held.items()) if type(value) in _PLAIN[:6] and not name.startswith("__")
    }


def _home(module: str) -> str:
    """A module's name, for this pack's under a name that is the same everywhere."""
    if not is_known(module):
        raise Uncertain(f"code of {module}")
    return f"pack{module[len(OWN) :]}" if module == OWN or module.startswith(f"{OWN}.") else module


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
