"""Wheels that call themselves ggml-python, small enough to be made anew, and an index of them on loopback."""

from __future__ import annotations

import functools
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERSION = "0.0.45"
NAME = f"ggml_python-{VERSION}-py3-none-any.whl"


def write(folder: Path, vulkan: bool, says: str = "", version: str = VERSION) -> Path:
    """A wheel in the index `folder`; says: Python code that runs as it is imported."""
    project = folder / "ggml-python"
    project.mkdir(parents=True, exist_ok=True)
    info = f"ggml_python-{version}.dist-info"
    needs = "Requires-Dist: torch==0.0.1\n"  # which nobody may install
    files = {
        "ggml/__init__.py": f"{says}\n__version__ = {version!r}\n",
        f"ggml/lib/libggml-{'vulkan' if vulkan else 'cpu'}.so": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: ggml_python\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = project / NAME
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(name, content)
    return path


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The URL of a folder, and the paths that were asked for so far."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
