"""Installs this checkout with ComfyUI-Manager's own code into a ComfyUI of its own, as a person does with one click."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from . import comfyui, ggml_wheel, packages, processes, server, vulkan
from .places import Places
from .processes import Command
from .steps import Failure, run, say

MANAGER = "comfyui-manager==4.3"
ADDED = {"ggml-python", "gguf", "xllamacpp"}  # by the pack, to what ComfyUI and Manager bring
LIST = """
import importlib.metadata, json
print(json.dumps({d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}))
"""


def install(here: Places, keep: bool) -> int:
    """Makes an environment, installs the committed state of the checkout into it, and starts it; returns the exit code.

    here: the checkout, set up, as the wheel in its cache is what the local index has. Raises Failure.
    """
    own = Places(root=here.root, state=here.state / "manager", cache=here.cache)
    own.logs.mkdir(parents=True, exist_ok=True)
    log = own.logs / "manager.log"
    log.write_bytes(b"")
    try:
        say("--- a ComfyUI with ComfyUI-Manager")
        prepare(own, log)
        before = installed(own, log)
        say("--- cm-cli install")
        with served(here, own, log) as url:
            folder = install_by_manager(own, url, log)
            check_packages(before, installed(own, log))
            run([own.python, "install.py"], log, {ggml_wheel.INDEX_VARIABLE: f"{url}/whl"}, cwd=folder)
        if "with Vulkan is there already" not in "\n".join(processes.last_lines(log, 3)):
            raise Failure("ggml with Vulkan is not what was installed", log=log)
        say("--- ComfyUI with what was installed")
        check_server(own)
    finally:
        if not keep:
            shutil.rmtree(own.venv, ignore_errors=True)
            shutil.rmtree(own.state / "ComfyUI", ignore_errors=True)
    say("ComfyUI-Manager installed it, with Vulkan, and it runs.")
    return 0


def prepare(own: Places, log: Path) -> None:
    """An environment with torch, ComfyUI's requirements and ComfyUI-Manager, and none of this pack's."""
    packages.make_venv(own, log)
    comfyui.fetch(own, log)
    packages.install(own, [*packages.TORCH, "-r", str(own.state / "ComfyUI" / "requirements.txt"), MANAGER], log)


def installed(own: Places, log: Path) -> dict[str, str]:
    """The version of every package."""
    run([own.python, "-c", LIST], log)
    versions: dict[str, str] = json.loads(processes.last_lines(log, 1)[0])
    return versions


def check_packages(before: dict[str, str], after: dict[str, str]) -> None:
    """Raises Failure unless the pack's packages were added and no other was changed, torch above all."""
    changed = sorted(name for name in before if after.get(name) != before[name])
    if changed:
        raise Failure(f"packages were changed that are not this pack's: {', '.join(changed)}")
    if missing := ADDED - after.keys():
        raise Failure(f"packages were not installed: {', '.join(sorted(missing))}")
    say(f"    added: {', '.join(sorted(after.keys() - before.keys()))}; torch {after['torch']} is as it was")


@contextmanager
def served(here: Places, own: Places, log: Path) -> Iterator[str]:
    """The URL of a folder with the repository, for git, and with the wheel of ggml, laid out as its authors' index."""
    folder = own.state / "served"
    shutil.rmtree(folder, ignore_errors=True)
    wheel = ggml_wheel.cached(here.cache / "ggml" / ggml_wheel.key())
    if wheel is None:
        raise Failure("there is no wheel of ggml in the cache", "run `python3 dev.py setup` first")
    project = folder / "whl" / "vulkan" / "ggml-python"
    project.mkdir(parents=True)
    shutil.copy(wheel, project)
    repository = folder / f"{server.PACK_NAME}.git"
    run(["git", "clone", "--quiet", "--bare", "--no-hardlinks", here.root, repository], log)
    run(["git", "update-server-info"], log, cwd=repository)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    answering = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=answering.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{answering.server_port}"
    finally:
        answering.shutdown()
        answering.server_close()


def install_by_manager(own: Places, url: str, log: Path) -> Path:
    """Runs cm-cli; returns the folder that the pack is in. Raises Failure."""
    host = own.state / "ComfyUI"
    environment = {"COMFYUI_PATH": str(host), ggml_wheel.INDEX_VARIABLE: f"{url}/whl"}
    command: Command = [own.program("cm-cli"), "install", "--mode", "local", "--exit-on-fail"]
    run([*command, f"{url}/{server.PACK_NAME}.git"], log, environment, cwd=host)
    folder = host / "custom_nodes" / server.PACK_NAME
    if not (folder / "__init__.py").is_file():
        raise Failure(f"Manager put no pack into {folder}", log=log)
    return folder


def check_server(own: Places) -> None:
    """Starts the ComfyUI that was installed into; raises Failure unless the nodes are there and Vulkan is found."""
    host, port = own.state / "ComfyUI", server.free_port()
    log = own.logs / "server.log"
    with log.open("wb") as output:
        line: Command = [own.python, host / "main.py", "--cpu", "--port", str(port), "--disable-auto-launch"]
        process = processes.start(line, output, vulkan.software_environment(own), cwd=host)
    try:
        answering = server.Server(f"http://127.0.0.1:{port}", process, log, host / "output")
        server.wait_until_ready(answering)
        if b"GGMLDiffusionModel" not in answering.get("/object_info/GGMLDiffusionModel"):
            raise Failure("ComfyUI has no node of this pack", log=log)
        devices = [device["name"] for device in json.loads(answering.get("/ggml/devices"))["devices"]]
        if not any(name.startswith("Vulkan") for name in devices):
            raise Failure(f"there is no Vulkan device, only {', '.join(devices)}", log=log)
        say(f"    its devices: {', '.join(devices)}")
    finally:
        processes.stop(process)
