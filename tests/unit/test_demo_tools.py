"""Serving and the demo: choices put into a workflow, a server's folders and processes, messages turned into lines."""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import sys
import threading
from pathlib import Path

import pytest

import dev
from tools import demo, language_model, micro_models, places, processes, server
from tools.steps import Failure
from tools.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, WebSocket
from tools.workflow import with_choices

WORKFLOW = {
    "1": {
        "class_type": "GGMLDiffusionModel",
        "inputs": {"device": "auto", "file": "m.gguf"},
        "_meta": {"title": "Model"},
    },
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red circle", "clip": ["9", 0]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["9", 0]}},
    "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 256, "height": 256, "batch_size": 1}},
    "5": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4, "latent_image": ["4", 0]}},
    "9": {"class_type": "GGMLTextEncoders", "inputs": {"device": "auto"}},
}


def test_each_choice_goes_to_its_nodes_and_nowhere_else():
    before = json.dumps(WORKFLOW)
    choices = {"device": "Vulkan0", "prompt": "a blue star", "width": 128, "height": 64, "seed": 7}
    result = with_choices(WORKFLOW, choices)
    assert json.dumps(WORKFLOW) == before
    expected = json.loads(before)
    expected["1"]["inputs"]["device"] = "Vulkan0"
    expected["2"]["inputs"]["text"] = "a blue star"
    expected["4"]["inputs"].update(width=128, height=64)
    expected["5"]["inputs"]["seed"] = 7
    assert result == expected, "a negative prompt, another node's device or anything else was changed"


def test_a_choice_that_was_not_made_changes_nothing():
    assert with_choices(WORKFLOW, {"device": None, "seed": None}) == WORKFLOW
    assert with_choices(WORKFLOW, {"seed": 0})["5"]["inputs"]["seed"] == 0


def test_a_choice_without_a_place_is_refused():
    linked = {"5": {"class_type": "KSampler", "inputs": {"seed": ["8", 0]}}}
    with pytest.raises(Failure, match=r"no KSampler or .* node whose seed"):
        with_choices(linked, {"seed": 7})


@pytest.mark.parametrize("text", ["512", "512x", "x512", "-16x16", "512x500", "0x16", "16x16x16"])
def test_a_size_the_model_cannot_draw_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=text):
        dev.picture_size(text)


def test_a_size_is_width_by_height():
    assert dev.picture_size("512x384") == (512, 384)


def options(tmp_path: Path, pack: Path) -> server.ServerOptions:
    return server.ServerOptions(Path(sys.executable), tmp_path, pack, tmp_path / "my models", tmp_path / "a base")


def test_the_pack_is_linked_and_models_are_named_in_folders_with_spaces(tmp_path):
    for name in ("first pack", "second pack"):  # the second time the checkout has moved
        pack = tmp_path / name
        pack.mkdir()
        (pack / "__init__.py").write_text(name)
        for _ in range(2):
            server.lay_out(options(tmp_path, pack))
        assert (tmp_path / "a base" / "custom_nodes" / server.PACK_NAME / "__init__.py").read_text() == name
    folders = json.loads((tmp_path / "a base" / "models.yaml").read_text())["micro"]
    assert folders["vae"] == str(tmp_path / "my models" / "vae")


def test_the_picture_that_workflows_load_is_there(tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "example.png").write_bytes(b"picture")
    server.lay_out(options(tmp_path, tmp_path))
    assert (tmp_path / "a base" / "input" / "example.png").read_bytes() == b"picture"


def test_a_real_folder_in_the_place_of_the_link_is_not_deleted(tmp_path):
    kept = tmp_path / "a base" / "custom_nodes" / server.PACK_NAME / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        server.lay_out(options(tmp_path, tmp_path))
    assert kept.read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes cannot be selected on Windows")
@pytest.mark.parametrize("deaf", [False, True])
def test_stopping_a_process_ends_all_that_it_started(deaf):
    """The grandchild holds the pipe open; `deaf` ones ignore a polite request."""
    mute = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else ""
    sleep = f"{mute}import time; print('u', end='', flush=True); time.sleep(600)"
    script = f"{mute}import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])"
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as output:
        with open(writing, "wb") as held:
            process = processes.start([sys.executable, "-c", script], held)
        assert output.read(1) == b"u"
        processes.stop(process, grace=0.5)
        assert select.select([output], [], [], 30)[0], "the grandchild still holds its output"
        assert output.read(1) == b""


def test_a_server_that_ends_while_starting_is_told_with_its_log(tmp_path):
    (tmp_path / "main.py").write_text("import sys; sys.exit('no module named torch')")
    with pytest.raises(Failure, match="ended with code 1") as failure, server.running(options(tmp_path, tmp_path)):
        pass
    assert failure.value.log is not None
    assert processes.last_lines(failure.value.log, 1) == ["no module named torch"]


def test_a_taken_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = server.ServerOptions(Path(sys.executable), tmp_path, tmp_path, tmp_path, tmp_path / "base", port)
        with pytest.raises(Failure, match=f"port {port} is in use"), server.running(wanted):
            pass


def test_only_the_last_state_of_a_progress_bar_counts_as_a_line(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"loading\n\n 10%|#  |\r 50%|## |\r100%|###|\n\x1b[32m\xff\x1b[0m done \n")
    assert processes.last_lines(log, 2) == ["100%|###|", "\ufffd done"]
    assert processes.last_lines(tmp_path / "absent", 2) == []


def test_messages_become_lines_only_for_this_prompt():
    message = {"type": "executing", "data": {"node": "1", "prompt_id": "p"}}
    assert demo.progress_line(WORKFLOW, "p", message) == "Model"
    assert demo.progress_line(WORKFLOW, "another", message) is None
    step = {"type": "progress", "data": {"node": "5", "value": 2, "max": 4, "prompt_id": "p"}}
    assert demo.progress_line(WORKFLOW, "p", step) == "KSampler: 2 of 4"
    step["data"].update(value=2**20, max=2**22)
    assert demo.progress_line(WORKFLOW, "p", step) == "KSampler: 25 %"
    assert demo.progress_line(WORKFLOW, "p", {"type": "status", "data": {"status": {}}}) is None
    assert not demo.is_end("p", message)
    assert demo.is_end("p", {"type": "executing", "data": {"node": None, "prompt_id": "p"}})


def test_an_execution_error_is_told_on_its_node():
    error = {"node_id": "1", "exception_message": "the file ends early\n", "exception_type": "WeightFileError"}
    entry = {"status": {"status_str": "error", "messages": [["execution_start", {}], ["execution_error", error]]}}
    with pytest.raises(Failure, match=r"^Model: the file ends early$"):
        demo.checked(WORKFLOW, entry)


def test_auto_is_told_by_the_name_of_the_device():
    entry = {"outputs": {demo.DEVICES: {"text": ["CPU: a processor\nauto is CPU for the diffusion model, and so on."]}}}
    assert demo.device_used(WORKFLOW, entry) == "CPU"
    assert demo.device_used(with_choices(WORKFLOW, {"device": "Vulkan0"}), entry) == "Vulkan0"


def test_a_refused_workflow_is_told_node_by_node():
    details = {"message": "Value not in list", "details": "device: 'Vulkan7' not in list"}
    body = {"error": {"message": "Prompt outputs failed validation"}, "node_errors": {"1": {"errors": [details]}}}
    assert demo.refusal(WORKFLOW, json.dumps(body).encode()) == "Model: device: 'Vulkan7' not in list"
    body["node_errors"] = {}
    assert demo.refusal(WORKFLOW, json.dumps(body).encode()) == "Prompt outputs failed validation"
    assert "gateway" in demo.refusal(WORKFLOW, b"<html>gateway</html>")


def frame(kind: int, content: bytes, final: bool = True) -> bytes:
    size = len(content)
    length = (
        bytes([size])
        if size < 126
        else struct.pack(">BH", 126, size)
        if size < 65536
        else struct.pack(">BQ", 127, size)
    )
    return bytes([0x80 * final | kind]) + length + content


def test_websocket_gives_whole_texts_and_answers_pings():
    long, longer = "ü" * 500, "x" * 70000
    sent = [
        frame(BINARY, b"preview"),
        frame(TEXT, b"a", final=False),
        frame(PING, b"alive?"),
        frame(CONTINUATION, b"b"),
        frame(TEXT, long.encode()),
        frame(TEXT, longer.encode()),
        frame(CLOSE, b""),
    ]
    answers: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection = listener.accept()[0]
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += connection.recv(1)
        answers.append(request)
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
        for part in sent:
            connection.sendall(part)
        while part := connection.recv(4096):
            answers.append(part)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with WebSocket(f"http://127.0.0.1:{listener.getsockname()[1]}/ws?clientId=c") as messages:
            assert [messages.receive(30) for _ in range(3)] == ["ab", long, longer]
            with pytest.raises(ConnectionError, match="closed"):
                messages.receive(30)
        thread.join()
    assert answers[0].startswith(b"GET /ws?clientId=c HTTP/1.1\r\n")
    pong = b"".join(answers[1:])
    assert pong[:2] == bytes([0x80 | PONG, 0x80 | 6])
    assert bytes(byte ^ pong[2 + index % 4] for index, byte in enumerate(pong[6:12])) == b"alive?"


def test_a_demo_has_the_language_model_that_the_workflows_name(tmp_path):
    for _ in range(2):
        language_model.ensure(places.here(), tmp_path)
    (file,) = (tmp_path / "LLM").iterdir()
    assert file.read_bytes().startswith(b"GGUF")
    template = json.loads((places.here().root / "workflows" / "api" / "expand_and_draw.json").read_text())
    wanted = micro_models.with_micro_models(template)
    assert file.name in {node["inputs"].get("model_name") for node in wanted.values()}


def test_workflows_for_the_micro_models_name_files_that_are_there(tmp_path):
    here = places.here()
    micro_models.write_workflows(here.root / "workflows", tmp_path)
    there = {file.name for file in here.micro_models.rglob("*") if file.is_file()} | {language_model.NAME}
    for file in tmp_path.iterdir():
        values = [str(value) for node in json.loads(file.read_text())["nodes"] for value in node["widgets_values"]]
        named = {value for value in values if value.endswith((".gguf", ".safetensors"))}
        assert len(named) >= 4
        assert named <= there
