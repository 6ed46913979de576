"""Frames between client and runner over a pipe: a message as JSON and optional raw bytes, length-prefixed.

The JSON is [number of the request, message]; a dataclass is [its name, the values of its fields, ...].
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from operator import attrgetter
from threading import Lock
from types import NoneType, UnionType
from typing import IO, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from .messages import Message

_LENGTHS = struct.Struct("<IQ")  # bytes of header, bytes of payload
_LARGEST_HEADER = 64 << 20
_LARGEST_PAYLOAD = 4 << 30
Decoder = Callable[[Any], Any]


class ProtocolError(RuntimeError):
    """The bytes in the pipe are no frame, or its message is none of messages.py."""


class PeerGone(Exception):
    """Nobody reads the other end of the pipe any more."""


class Frame(NamedTuple):
    """A message with the number of the request that it makes or belongs to; 0: none."""

    request: int
    message: Message
    payload: bytes


class FrameWriter:
    """Writes whole frames to a pipe from any thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = Lock()

    def send(self, request: int, message: Message, payload: bytes | memoryview = b"") -> None:
        """Write one frame; raises PeerGone."""
        text = json.dumps([request, message], default=_row, separators=(",", ":")).encode()
        with self._lock:
            try:
                self._stream.write(_LENGTHS.pack(len(text), len(payload)) + text)
                if payload:
                    self._stream.write(payload)
                self._stream.flush()
            except (OSError, ValueError) as error:  # ValueError: closed on our side
                raise PeerGone(str(error)) from error


def receive(stream: IO[bytes]) -> Frame:
    """Read one frame; raises EOFError when the other end is gone, ProtocolError for what is not a frame."""
    header_bytes, payload_bytes = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    if header_bytes > _LARGEST_HEADER or payload_bytes > _LARGEST_PAYLOAD:
        raise ProtocolError(f"a frame of {header_bytes} + {payload_bytes} bytes: something else wrote into the pipe")
    try:
        header = json.loads(_exactly(stream, header_bytes))
    except ValueError as error:
        raise ProtocolError(f"a frame's header is not JSON: {error}") from error
    request, message = decoder(tuple[int, Message])(header)
    return Frame(request, message, _exactly(stream, payload_bytes))


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError(f"the pipe ended {count - len(data)} bytes early")
    return data


def _row(message: Any) -> list[Any]:
    """A dataclass as a JSON array; json itself knows what is in the fields, or comes back here for it."""
    kind: Any = type(message)
    return [kind.__name__, *_values(kind)(message)]


@cache
def _values(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    if not is_dataclass(kind):
        raise TypeError(f"a {kind.__name__} is no part of a message")
    names = [field.name for field in fields(kind)]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda message: tuple(getattr(message, name) for name in names)


@cache
def decoder(hint: Hashable) -> Decoder:
    """The function that makes a value of a type out of parsed JSON; it raises ProtocolError for anything else.

    Types: dataclasses, str, int, bool, float, None, Literal, tuples, mappings by str, and unions of dataclasses with at
    most one other type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _union(arguments)
    if origin is Literal:
        return lambda value: _checked(value, type(value) is str and value in arguments, hint)
    if origin is tuple and arguments[-1] is Ellipsis:
        item = decoder(arguments[0])
        return lambda value: tuple(map(item, _list(value, hint)))
    if origin is tuple:
        items = [decoder(argument) for argument in arguments]
        return lambda value: tuple(
            decode(item) for decode, item in zip(items, _list(value, hint, len(items)), strict=True)
        )
    if origin is Mapping:
        each = decoder(arguments[1])
        return lambda value: {key: each(item) for key, item in _checked(value, type(value) is dict, hint).items()}
    if is_dataclass(hint):
        return _dataclass(hint)
    accepted = (int, float) if hint is float else (hint,)

    def decode(value: Any) -> Any:
        if type(value) not in accepted:
            raise _wrong(value, hint)
        return value

    return decode


def _union(alternatives: tuple[Any, ...]) -> Decoder:
    kinds = [kind for kind in alternatives if is_dataclass(kind)]
    named = {getattr(kind, "__name__", ""): _dataclass(kind) for kind in kinds}
    others = [decoder(kind) for kind in alternatives if not is_dataclass(kind) and kind is not NoneType]
    optional = NoneType in alternatives

    def decode(value: Any) -> Any:
        if value is None and optional:
            return None
        if others:
            return others[0](value)
        known = type(value) is list and value and type(value[0]) is str and value[0] in named
        return named[_checked(value, known, " or ".join(named))[0]](value)

    return decode


def _dataclass(kind: Any) -> Decoder:
    hints, name = get_type_hints(kind), kind.__name__
    decoders = [decoder(hints[field.name]) for field in fields(kind)]

    def decode(value: Any) -> Any:
        if type(value) is not list or len(value) != 1 + len(decoders) or value[0] != name:
            raise _wrong(value, kind)
        return kind(*[decode_field(item) for decode_field, item in zip(decoders, value[1:], strict=True)])

    return decode


def _list(value: Any, hint: Any, length: int | None = None) -> list[Any]:
    return _checked(value, type(value) is list and length in (None, len(value)), hint)


def _checked(value: Any, good: Any, hint: Any) -> Any:
    if not good:
        raise _wrong(value, hint)
    return value


def _wrong(value: Any, hint: Any) -> ProtocolError:
    return ProtocolError(f"{str(value)[:200]} is no {getattr(hint, '__name__', hint)}")
