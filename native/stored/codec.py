"""Lowered programs as bytes: JSON with a name for each type, then raw values. Reading runs no code that is not here."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..lower.host import HOST_FUNCTIONS, HostPart, Island, Lowered
from ..program import Program
from ..trace.graph import Question, TracedOp, Window

_LENGTHS = struct.Struct("<QQ")  # bytes of JSON, and how many values follow
_LENGTH = struct.Struct("<Q")
_ALIGNED = 64  # bytes; where a value begins
_CLASSES: dict[str, type] = {each.__name__: each for each in (HostPart, Island, Lowered, Question, TracedOp, Window)}
_FUNCTIONS: dict[str, Callable[..., Any]] = {  # of steps, besides aten's
    "linear": torch.nn.functional.linear,
    "scaled_dot_product_attention": torch.nn.functional.scaled_dot_product_attention,
    "functional.rms_norm": torch.nn.functional.rms_norm,
    "rms_norm": torch.rms_norm,
    "randn": torch.randn,
    "rand": torch.rand,
    "clone": torch.clone,
}
_NAMES = {id(function): name for name, function in _FUNCTIONS.items()}
_CONSTANTS = {
    str(each): each
    for each in vars(torch).values()
    if isinstance(each, (torch.dtype, torch.layout, torch.memory_format))
}
_PLAIN = (type(None), bool, int, float, str)


class Unstorable(ValueError):
    """A value that cannot be kept, such as a function of Python, or bytes that are no such value."""


def register(kind: type) -> type:
    """Let values of a dataclass be kept too."""
    _CLASSES[kind.__name__] = kind
    return kind


def encoded(value: Any, largest: int) -> bytes:
    """A value as bytes. Raises Unstorable, also where these are more than `largest`."""
    writer = _Writer(largest)
    text = json.dumps(writer.plain(value), separators=(",", ":")).encode()
    lengths = b"".join(_LENGTH.pack(len(each)) for each in writer.values)
    parts = [_LENGTHS.pack(len(text), len(writer.values)), lengths, text]
    position = sum(map(len, parts))
    for each in writer.values:
        gap = -position % _ALIGNED
        parts += [bytes(gap), each]
        position += gap + len(each)
    if position > largest:
        raise Unstorable(f"{position} bytes")
    return b"".join(parts)


def decoded(data: bytes) -> Any:
    """The value that `encoded` made these bytes of; arrays stay views on them. Raises Unstorable."""
    try:
        length, count = _LENGTHS.unpack_from(data)
        position = _LENGTHS.size + count * _LENGTH.size
        lengths = [each for (each,) in _LENGTH.iter_unpack(data[_LENGTHS.size : position])]
        text = data[position : position + length]
        position += length
        values, view = [], memoryview(data)
        for each in lengths:
            position += -position % _ALIGNED
            values.append(view[position : position + each])
            position += each
        return _Reader(values).value(json.loads(text))
    except (struct.error, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise Unstorable(f"these {len(data)} bytes are nothing that was kept: {error}") from error


class _Writer:
    """Makes JSON of values, and keeps the raw ones."""

    def __init__(self, largest: int) -> None:
        self.values: list[bytes] = []
        self._left = largest

    def plain(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in (list, tuple, torch.Size):
            return [kind.__name__, *map(self.plain, value)]
        if kind is dict:
            return ["dict", *([self.plain(key), self.plain(item)] for key, item in value.items())]
        if kind in (torch.dtype, torch.layout, torch.memory_format):
            return ["torch", str(value)]
        if kind is torch.device:
            return ["device", str(value)]
        if kind is np.ndarray and value.dtype.kind in "fiub":
            return ["array", value.dtype.str, list(value.shape), self._raw(np.ascontiguousarray(value), value.nbytes)]
        if kind is torch.Tensor:
            return self._tensor(value)
        if kind is Program and value.has_values:
            return ["Program", self._raw(value.to_bytes, sum(each.nbytes for each in value.constants.values()))]
        if kind is Program:
            return ["Program", self._raw(value.to_bytes, 0)]
        if kind is TracedOp:
            function = _function_name(value.function, self)
            rest = (value.args, value.kwargs, value.outputs, value.module_path)
            return ["TracedOp", value.name, function, *map(self.plain, rest)]
        if is_dataclass(kind) and _CLASSES.get(kind.__name__) is kind:
            return [kind.__name__, *(self.plain(getattr(value, each.name)) for each in fields(kind))]
        raise Unstorable(f"{kind.__name__}: {value!r:.80}")

    def _tensor(self, value: torch.Tensor) -> Any:
        if value.is_meta or not value.is_contiguous() or value.is_conj() or value.is_neg():
            raise Unstorable("a tensor with a layout of its own")
        flat = value.detach().cpu().reshape(-1)
        raw = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
        return ["tensor", str(value.dtype), list(value.shape), self._raw(raw, raw.nbytes)]

    def _raw(self, value: Any, nbytes: int) -> int:
        self._left -= nbytes
        if self._left < 0:
            raise Unstorable("more bytes than are kept")
        self.values.append(value() if callable(value) else value.tobytes())
        return len(self.values) - 1


class _Reader:
    """Makes values of JSON again."""

    def __init__(self, values: Sequence[memoryview]) -> None:
        self._values = values

    def value(self, plain: Any) -> Any:
        if not isinstance(plain, list):
            return plain
        name, *items = plain
        if name in ("list", "tuple", "Size"):
            return {"list": list, "tuple": tuple, "Size": torch.Size}[name](map(self.value, items))
        if name == "dict":
            return {self.value(key): self.value(item) for key, item in items}
        if name == "torch":
            return _CONSTANTS[items[0]]
        if name == "device":
            return torch.device(items[0])
        if name == "array":
            kind, shape, number = items
            return np.frombuffer(self._values[number], np.dtype(kind)).reshape(shape)
        if name == "tensor":
            kind, shape, number = items
            dtype: Any = _CONSTANTS[kind]
            if 0 in shape:
                return torch.empty(shape, dtype=dtype)
            raw = torch.from_numpy(np.frombuffer(self._values[number], np.uint8).copy())
            return raw.view(dtype).reshape(shape)
        if name == "Program":
            return Program.from_bytes(self._values[items[0]])
        if name == "TracedOp":
            step, function, *rest = items
            return TracedOp(step, self._function(function), *map(self.value, rest))
        return _CLASSES[name](*map(self.value, items))

    def _function(self, name: Any) -> Callable[..., Any]:
        if isinstance(name, list):
            return partial(self._function(name[0]), **self.value(name[1]))
        if not name.startswith("aten."):
            return _FUNCTIONS.get(name) or HOST_FUNCTIONS[name]
        _, packet, overload = name.split(".")
        found: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
        if not isinstance(found, torch._ops.OpOverload) or packet == "from_file":  # which writes files
            raise Unstorable(f"the function {name}")
        return found


def _function_name(function: Any, writer: _Writer) -> Any:
    if isinstance(function, partial) and not function.args:
        return [_function_name(function.func, writer), writer.plain(function.keywords)]
    if isinstance(function, torch._ops.OpOverload) and function.namespace == "aten":
        return str(function)
    name = _NAMES.get(id(function)) or next((name for name, each in HOST_FUNCTIONS.items() if each is function), None)
    if name is None:
        raise Unstorable(f"the function {function!r:.80}")
    return name
