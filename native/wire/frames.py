"""Frames between client and runner: a JSON header and optional raw bytes, length-prefixed, over a pipe.

The client sends `{"id": n, "do": verb, ...}`; the runner answers each id once with `{"id": n, "done": {...}}` or
`{"id": n, "error": {"kind", "message", ...}}`, and before that any number of `{"id": n, "progress": [done, total]}`.
`{"event": ...}` frames belong to no request. Tensors do not travel here but through shared memory.
"""

from __future__ import annotations

import json
import struct
from threading import Lock
from typing import IO, Any

_LENGTHS = struct.Struct("<IQ")  # bytes of header, bytes of payload
_LARGEST_HEADER = 64 << 20
_LARGEST_PAYLOAD = 4 << 30
Header = dict[str, Any]


class ProtocolError(RuntimeError):
    """The bytes in the pipe are no frame."""


class PeerGone(Exception):
    """Nobody reads the other end of the pipe any more."""


class FrameWriter:
    """Writes whole frames to a pipe from any thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = Lock()

    def send(self, header: Header, payload: bytes | memoryview = b"") -> None:
        """Write one frame; raises PeerGone."""
        text = json.dumps(header, separators=(",", ":")).encode()
        with self._lock:
            try:
                self._stream.write(_LENGTHS.pack(len(text), len(payload)) + text)
                if payload:
                    self._stream.write(payload)
                self._stream.flush()
            except (OSError, ValueError) as error:  # ValueError: closed on our side
                raise PeerGone(str(error)) from error


def receive(stream: IO[bytes]) -> tuple[Header, bytes]:
    """Read one frame; raises EOFError when the other end is gone, ProtocolError when it is not a frame."""
    header_bytes, payload_bytes = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    if header_bytes > _LARGEST_HEADER or payload_bytes > _LARGEST_PAYLOAD:
        raise ProtocolError(f"a frame of {header_bytes} + {payload_bytes} bytes: something else wrote into the pipe")
    try:
        header = json.loads(_exactly(stream, header_bytes))
    except ValueError as error:
        raise ProtocolError(f"a frame's header is not JSON: {error}") from error
    return header, _exactly(stream, payload_bytes)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError(f"the pipe ended {count - len(data)} bytes early")
    return data
