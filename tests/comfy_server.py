"""A real ComfyUI server with this pack, and what a client says to it over HTTP and its WebSocket."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import os
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from PIL import Image

from tests import random_llm, random_projector, stacks
from tools import server
from tools.micro_models import with_micro_models

ROOT = Path(__file__).parents[1]
MICRO_MODELS = ROOT / "tests" / "micro" / "models"
WORKFLOWS = ROOT / "workflows"
BINARY_EVENTS, TEXT_EVENT = ("preview", "progress_text"), 3
PATIENCE = 240.0  # seconds for what must happen in the end, on a slow machine

Workflow = dict[str, dict[str, Any]]
Event = tuple[str, Any]


class Refused(Exception):
    """HTTP 400: the server refused a prompt; `node_errors` as it sent them."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(json.dumps(body))
        self.node_errors: dict[str, Any] = body.get("node_errors", {})

    def said(self, node: str) -> str:
        """The errors of one node, one line each."""
        return "\n".join(error["details"] or error["message"] for error in self.node_errors[node]["errors"])


class JobFailed(Exception):
    """A prompt ended in an error; `node` and `message` are what ComfyUI shows."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(f"{node}: {message}")
        self.node = node
        self.message = message


class Interrupted(Exception):
    """A prompt ended because it was interrupted."""


@dataclass(frozen=True)
class Job:
    """A prompt that ended well: what its nodes put out, by node, and which nodes' results were still known."""

    outputs: dict[str, Any]
    cached: frozenset[str]


class Client:
    """Talks to one server."""

    def __init__(self, running: server.Server) -> None:
        self.server = running
        self.name = uuid.uuid4().hex

    def get(self, path: str) -> Any:
        """The JSON behind a path."""
        return json.loads(self.server.get(path))

    def send(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post JSON; raises Refused."""
        request = urllib.request.Request(
            self.server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
                content = reply.read()
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise Refused(json.load(error)) from None
        return json.loads(content) if content else None

    def queue(self, workflow: Workflow, **extra: Any) -> str:
        """Put a workflow into the queue and return the prompt's id; raises Refused, also when only a part of it was."""
        answer = self.send("/prompt", {"prompt": workflow, "client_id": self.name, "extra_data": extra})
        if answer["node_errors"]:
            raise Refused(answer)
        return str(answer["prompt_id"])

    def wait(self, prompt: str) -> Job:
        """The end of a prompt; raises JobFailed, Interrupted, and TimeoutError when it never ends."""
        try:
            entry = eventually(lambda: self.get(f"/history/{prompt}").get(prompt), f"the end of {prompt}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{stacks.of(self.server.process.pid)}") from error
        messages = dict(entry["status"]["messages"])
        if entry["status"]["status_str"] == "success":
            return Job(entry["outputs"], frozenset(messages["execution_cached"]["nodes"]))
        if "execution_error" in messages:
            error = messages["execution_error"]
            raise JobFailed(error["node_id"], error["exception_message"])
        raise Interrupted(prompt)

    def outcome(self, prompt: str) -> Job | JobFailed:
        """How a prompt ended, well or in an error."""
        try:
            return self.wait(prompt)
        except JobFailed as failure:
            return failure

    def run(self, workflow: Workflow) -> Job:
        """Queue and wait."""
        return self.wait(self.queue(workflow))

    def pictures(self, job: Job) -> list[np.ndarray]:
        """Every picture that a prompt saved, as [height, width, 3] bytes."""
        images = [image for output in job.outputs.values() for image in output.get("images", [])]
        return [picture(self.server.get(f"/view?{urllib.parse.urlencode(image)}")) for image in images]

    def draw(self, workflow: Workflow) -> np.ndarray:
        """Run a workflow that saves one picture: [height, width, 3] bytes."""
        (image,) = self.pictures(self.run(workflow))
        return image

    def follow(self, workflow: Workflow, act: Callable[[str, Any], None] | None = None, **extra: Any) -> list[Event]:
        """Queue a workflow and return all that the WebSocket says until it ends; `act` is given each event at once.

        An event is its type and its data; binary ones are "preview", with an image file, and "progress_text".
        """
        return asyncio.run(self._follow(workflow, act or (lambda kind, data: None), extra))

    async def _follow(self, workflow: Workflow, act: Callable[[str, Any], None], extra: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        async with aiohttp.ClientSession() as session:
            address = f"{self.server.url}/ws?clientId={self.name}"
            async with session.ws_connect(address, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(PATIENCE)) as socket:
                prompt = await asyncio.to_thread(self.queue, workflow, **extra)

                async def until_the_end() -> None:
                    async for message in socket:
                        event = parse(message)
                        if event[0] not in BINARY_EVENTS and event[1].get("prompt_id") != prompt:
                            continue
                        events.append(event)
                        await asyncio.to_thread(act, *event)
                        if event[0] == "executing" and event[1]["node"] is None:
                            break

                await asyncio.wait_for(until_the_end(), PATIENCE)
        return events

    def upload(self, name: str, image: Image.Image, mode: str = "RGB") -> None:
        """Put a picture into the input folder, as Load Image does."""
        content = io.BytesIO()
        image.convert(mode).save(content, "PNG")
        parts = (("image", f'; filename="{name}"', content.getvalue()), ("overwrite", "", b"true"))
        body = b"".join(
            f'--part\r\nContent-Disposition: form-data; name="{key}"{more}\r\n\r\n'.encode() + value + b"\r\n"
            for key, more, value in parts
        )
        headers = {"Content-Type": "multipart/form-data; boundary=part"}
        request = urllib.request.Request(f"{self.server.url}/upload/image", body + b"--part--\r\n", headers)
        urllib.request.urlopen(request, timeout=PATIENCE).close()

    def runner(self) -> psutil.Process | None:
        """The runner's process, if it is there."""
        return self.child("native.runner")

    def child(self, module: str) -> psutil.Process | None:
        """A process of the pack's, by the module it runs, if it is there."""
        for child in psutil.Process(self.server.process.pid).children(recursive=True):
            try:
                if module in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def mapped_models(self) -> set[str]:
        """Names of the model files that the runner maps."""
        runner = self.runner()
        files = {Path(area.path).name for area in runner.memory_maps()} if runner else set()
        return {name for name in files if name.endswith((".gguf", ".safetensors"))}


def parse(message: aiohttp.WSMessage) -> Event:
    """A message of the WebSocket as an event.

    Binary ones begin with two 32-bit numbers: the event, and the image's format or the length of the node's id.
    """
    if message.type == aiohttp.WSMsgType.BINARY:
        number, second = struct.unpack(">II", message.data[:8])
        if number != TEXT_EVENT:
            return "preview", message.data[8:]
        node, text = message.data[8 : 8 + second], message.data[8 + second :]
        return "progress_text", {"node": node.decode(), "text": text.decode()}
    content = json.loads(message.data)
    return content["type"], content["data"]


def picture(file: bytes) -> np.ndarray:
    """An image file as [height, width, 3] bytes."""
    with Image.open(io.BytesIO(file)) as opened:
        return np.asarray(opened.convert("RGB"))


def eventually(look: Callable[[], Any], what: str = "it", patience: float = PATIENCE) -> Any:
    """The first true value of `look()`; raises TimeoutError when none comes."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {patience:g} s")
        time.sleep(0.05)
    return found


def shipped(name: str) -> Workflow:
    """A template of this repository in API format, as it is."""
    loaded: Workflow = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def workflow(name: str) -> Workflow:
    """A template with the micro models."""
    return with_micro_models(shipped(name))


def changed(base: Workflow, changes: Mapping[str, Mapping[str, Any]]) -> Workflow:
    """A copy of a workflow with inputs of the nodes of these classes set."""
    result = copy.deepcopy(base)
    for class_type, inputs in changes.items():
        nodes = [node for node in result.values() if node["class_type"] == class_type]
        assert nodes, f"no {class_type} in the workflow"
        for node in nodes:
            node["inputs"].update(inputs)
    return result


def node_id(base: Workflow, class_type: str) -> str:
    """The id of the one node of a class."""
    (found,) = (key for key, node in base.items() if node["class_type"] == class_type)
    return found


@contextmanager
def running(
    base: Path, models: Path = MICRO_MODELS, *arguments: str, python: Path = Path(sys.executable)
) -> Iterator[Client]:
    """A server with these models and a tiny language model, whose own folders are under `base`."""
    random_projector.write(random_llm.write(base / "models" / "LLM" / random_llm.NAME).with_name(random_projector.NAME))
    options = server.ServerOptions(
        python=python,
        comfyui=Path(os.environ["COMFYUI_PATH"]),
        pack=ROOT,
        models=models,
        base=base,
        environment=stacks.environment(),
        arguments=arguments,
    )
    with server.running(options) as answering:
        yield Client(answering)
