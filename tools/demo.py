"""One picture through a real server: post the workflow, follow it, fetch the PNG."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from .server import Server
from .steps import Failure, elapsed, say
from .websocket import WebSocket
from .workflow import Workflow, title

DEVICES = "devices"  # the id of the node, added to the workflow, that says what `auto` is on this machine
SILENCE = 2.0  # seconds without a message after which the server itself is looked at


def draw(server: Server, workflow: Workflow, out: Path) -> None:
    """Runs the workflow and writes its first picture to `out`; raises Failure with ComfyUI's own reason."""
    started = time.monotonic()
    client = uuid.uuid4().hex
    workflow = {**workflow, DEVICES: {"class_type": "GGMLDevices", "inputs": {}}}
    with WebSocket(f"{server.url}/ws?clientId={client}") as messages:
        prompt = post(server, workflow, client)
        entry = follow(server, messages, workflow, prompt)
    write_picture(server, entry, out)
    say(f"Drawn on {device_used(workflow, entry)} in {elapsed(started)}: {out}")


def post(server: Server, workflow: Workflow, client: str) -> str:
    """Queues the workflow and returns its id; raises Failure with what the server finds wrong in it."""
    body = json.dumps({"prompt": workflow, "client_id": client}).encode()
    request = urllib.request.Request(f"{server.url}/prompt", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.load(reply)
    except urllib.error.HTTPError as error:
        raise Failure(refusal(workflow, error.read())) from error
    if answer.get("node_errors"):
        raise Failure(node_errors(workflow, answer["node_errors"]))
    return str(answer["prompt_id"])


def refusal(workflow: Workflow, body: bytes) -> str:
    """The error message in the body of an HTTP 400, as text."""
    try:
        answer = json.loads(body)
        return node_errors(workflow, answer.get("node_errors") or {}) or str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"ComfyUI refused the workflow: {body[:500]!r}"


def node_errors(workflow: Workflow, errors: dict[str, Any]) -> str:
    """A line for each thing that is wrong with a node's inputs."""
    return "\n    ".join(
        f"{title(workflow, node)}: {error.get('details') or error.get('message')}"
        for node, entry in errors.items()
        for error in entry.get("errors", [])
    )


def follow(server: Server, messages: WebSocket, workflow: Workflow, prompt: str) -> dict[str, Any]:
    """Prints what the server does until the prompt is done; returns its history entry."""
    started = time.monotonic()
    last = ""
    while True:
        try:
            text = messages.receive(SILENCE)
        except ConnectionError as error:
            raise Failure(f"ComfyUI ended while it worked on the picture ({error})", log=server.log) from error
        message = json.loads(text) if text is not None else None
        if message is not None and not is_end(prompt, message):
            line = progress_line(workflow, prompt, message)
            if line and line != last:
                say(f"  {elapsed(started):>8}  {line}")
                last = line
        elif entry := history(server, prompt):
            return checked(workflow, entry)


def history(server: Server, prompt: str) -> dict[str, Any] | None:
    """The history entry of a prompt; None until it has ended, or while the server does not answer."""
    try:
        entry: dict[str, Any] | None = json.loads(server.get(f"/history/{prompt}")).get(prompt)
    except OSError:
        return None
    return entry


def is_end(prompt: str, message: dict[str, Any]) -> bool:
    """Whether a message says that the prompt has left the queue, which is after its history was written."""
    data = message.get("data", {})
    return message["type"] == "executing" and data.get("prompt_id") == prompt and data.get("node") is None


def progress_line(workflow: Workflow, prompt: str, message: dict[str, Any]) -> str | None:
    """The line to print for a message about this prompt; None for other messages."""
    data = message.get("data", {})
    if data.get("prompt_id") != prompt:
        return None
    if message["type"] == "executing" and data.get("node"):
        return title(workflow, data["node"])
    if message["type"] == "progress":
        return f"{title(workflow, data['node'])}: {progress(data['value'], data['max'])}"
    return None


def progress(value: float, maximum: float) -> str:
    """How far something is: steps are counted, what is in the thousands (bytes) is a percentage."""
    return f"{value:.0f} of {maximum:.0f}" if maximum < 1000 else f"{100 * value / maximum:.0f} %"


def checked(workflow: Workflow, entry: dict[str, Any]) -> dict[str, Any]:
    """The history entry of a prompt that went well; raises Failure with the error of one that did not."""
    status = entry.get("status", {})
    if status.get("status_str") == "success":
        return entry
    for kind, data in status.get("messages", []):
        if kind == "execution_error":
            why = f"{title(workflow, data['node_id'])}: {data['exception_message'].strip()}"
            raise Failure(why)
    raise Failure("the run was interrupted", "start it again")


def device_used(workflow: Workflow, entry: dict[str, Any]) -> str:
    """The device of the diffusion model, by its own name where `auto` was asked for."""
    nodes = (node for node in workflow.values() if node["class_type"] == "GGMLDiffusionModel")
    device = str(next(nodes)["inputs"]["device"])
    told = re.search(
        r"auto is (\S+) for the diffusion model", "".join(entry["outputs"].get(DEVICES, {}).get("text", []))
    )
    return told[1] if told and device == "auto" else device


def write_picture(server: Server, entry: dict[str, Any], out: Path) -> None:
    """Fetches the first picture that the prompt saved and writes it in one go."""
    pictures = [picture for output in entry["outputs"].values() for picture in output.get("images", [])]
    saved = next((picture for picture in pictures if picture["type"] == "output"), None)
    if saved is None:
        raise Failure("the workflow ended well but saved no picture", "give it a Save Image node")
    content = server.get(f"/view?{urllib.parse.urlencode(saved)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    partial.write_bytes(content)
    partial.replace(out)
