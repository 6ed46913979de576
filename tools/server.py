"""A ComfyUI server with this pack and the micro models in it, in folders of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import processes, vulkan
from .processes import Command
from .steps import Failure

START_LIMIT = 300.0  # seconds until a server that does not answer is given up
PACK_NAME = "ggml-vulkan"
MODEL_FOLDERS = ("diffusion_models", "text_encoders", "vae", "loras", "checkpoints")


@dataclass(frozen=True)
class ServerOptions:
    """How a server is started: Python, ComfyUI, the pack, its models, and the folder that it writes to."""

    python: Path
    comfyui: Path
    pack: Path
    models: Path
    base: Path
    port: int = 0  # 0: a free one
    environment: Mapping[str, str] | None = None
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class Server:
    """A server that answers at `url`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    output: Path

    def get(self, path: str) -> bytes:
        """The body that a GET of `path` returns."""
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            return bytes(reply.read())


@contextmanager
def running(options: ServerOptions) -> Iterator[Server]:
    """Starts a server and waits until it answers; ends it and all it started on the way out.

    Raises Failure with the end of its log when it does not come up.
    """
    lay_out(options)
    port = options.port or free_port()
    if options.port and is_taken(port):
        raise Failure(f"port {port} is in use", "choose another with --port, or leave it out for a free one")
    log = options.base / "server.log"
    with log.open("wb") as output:
        process = processes.start(command(options, port), output, options.environment, cwd=options.base)
    try:
        server = Server(f"http://127.0.0.1:{port}", process, log, options.base / "output")
        wait_until_ready(server)
        yield server
    finally:
        processes.stop(process)


def lay_out(options: ServerOptions) -> None:
    """Makes the folders of a server: the pack as a custom node, and the list of model folders."""
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (options.base / name).mkdir(parents=True, exist_ok=True)
    link_folder(options.base / "custom_nodes" / PACK_NAME, options.pack)
    example = options.comfyui / "input" / "example.png"  # what every ComfyUI has, and image_to_image.json loads
    if example.exists():
        shutil.copy(example, options.base / "input")
    folders = {name: str(options.models / name) for name in MODEL_FOLDERS}
    # JSON is YAML too, and quotes whatever a path may hold.
    (options.base / "models.yaml").write_text(json.dumps({"micro": folders}, indent=2), encoding="utf-8")


def link_folder(link: Path, target: Path) -> None:
    """Makes `link` lead to `target`, as a junction on Windows, where a symbolic link takes special rights."""
    with suppress(OSError):
        if link.resolve() == target.resolve():
            return
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        os.rmdir(link)  # a junction; a real folder with something in it stays and is an error
    if sys.platform == "win32":
        subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(target)], check=True, capture_output=True)
    else:
        link.symlink_to(target, target_is_directory=True)


def command(options: ServerOptions, port: int) -> Command:
    """The command line that starts the server."""
    base = options.base
    line: list[str | Path] = [options.python, options.comfyui / "main.py", "--port", str(port)]
    line += ["--base-directory", base, "--extra-model-paths-config", base / "models.yaml"]
    line += ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
    line += ["--disable-auto-launch", "--disable-api-nodes"]
    if not torch_has_gpu(options.python):
        line.append("--cpu")
    return [*line, *options.arguments]


@cache
def torch_has_gpu(python: Path) -> bool:
    """Whether ComfyUI's own torch can compute on a GPU; without one ComfyUI has to be told."""
    # dxg is WSL's door, which CUDA knows. Asking torch takes seconds, so it is asked only where the answer is open.
    if not vulkan.has_gpu(files=(*vulkan.GPU_FILES, "dxg")):
        return False
    accelerators = "torch.cuda.is_available() or torch.xpu.is_available() or torch.backends.mps.is_available()"
    answer = subprocess.run(
        [str(python), "-c", f"import torch; print({accelerators})"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() == "True"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_ready(server: Server) -> None:
    """Returns when the server answers; raises Failure when it ended or takes too long."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise Failure(f"ComfyUI ended with code {server.process.returncode} while starting", log=server.log)
        with suppress(OSError):
            server.get("/system_stats")
            return
        time.sleep(0.2)
    raise Failure(f"ComfyUI did not answer within {START_LIMIT:.0f} s", log=server.log)
