"""The receiving half of a WebSocket (RFC 6455), enough to follow ComfyUI's messages with the standard library alone."""

from __future__ import annotations

import base64
import os
import select
import socket
import struct
from urllib.parse import urlsplit

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class WebSocket:
    """A connection that gives the text messages of a server; binary ones (previews) are dropped."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname or "", address.port or 80), timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        target = f"{address.path}?{address.query}" if address.query else address.path
        self._socket.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        header = b""
        while not header.endswith(b"\r\n\r\n"):
            header += self._exactly(1)
        status = header.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101 " not in f"{status} ":
            raise ConnectionError(f"{url} is no WebSocket: {status}")

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def receive(self, seconds: float) -> str | None:
        """The next text message, or None when none begins within `seconds`; raises ConnectionError at the end."""
        while select.select([self._socket], [], [], seconds)[0]:
            kind, content = self._message()
            if kind == TEXT:
                return content.decode()
        return None

    def _message(self) -> tuple[int, bytes]:
        """One whole message, put together from its frames."""
        kind, content, final = 0, b"", False
        while not final:
            final, code, payload = self._frame()
            if code == CLOSE:
                raise ConnectionError("the server closed the connection")
            if code == PING:
                self._send(PONG, payload)
            if code in (PING, PONG):
                if not kind:
                    return code, payload
                final = False
                continue
            kind, content = kind or code, content + payload
        return kind, content

    def _frame(self) -> tuple[bool, int, bytes]:
        """One frame: whether it ends its message, its kind, its content."""
        first, second = self._exactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._exactly(8))
        return bool(first & 0x80), first & 0x0F, self._exactly(length)

    def _send(self, kind: int, payload: bytes) -> None:
        """Sends a short frame, masked as a client must."""
        mask = os.urandom(4)
        body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self._socket.sendall(bytes([0x80 | kind, 0x80 | len(payload)]) + mask + body)

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            if not part:
                raise ConnectionError("the server closed the connection")
            parts += part
        return bytes(parts)
