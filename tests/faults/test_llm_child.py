"""A language model's child that cannot start, and what is left of one: no process, no open port, no key."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from native.llm import server_lifetime as serving
from native.llm import server_process
from native.llm.answer import answer
from native.llm.model import LanguageModelError, LocalModel, local_model
from native.llm.requests import conversation_request
from native.process.child import PACK
from tests import random_llm, random_projector
from tests.comfy_server import eventually
from tests.faults.test_server_faults import is_running
from tests.random_llm import TINY

PARENT = """
import sys, time
from native.llm import server_lifetime as serving
from native.llm.model import local_model
model = local_model(sys.argv[1], "CPU", -1, 512, 1, None, False)
serving.with_server(model, lambda endpoint: None, lambda: False)
print(serving.running().pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    path = random_llm.write(tmp_path / "m.gguf")
    return local_model(str(path), "CPU", -1, 512, 1, None, False)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    serving.unload()


def ask(model: LocalModel) -> str:
    return answer(
        model, lambda endpoint: conversation_request("", "hi", (), 1, 1.0, 5, endpoint), lambda _: None, lambda: False
    ).text


def refusal(model: LocalModel) -> str:
    with pytest.raises(LanguageModelError) as error:
        ask(model)
    assert serving.running() is None
    return str(error.value)


def test_a_file_that_went_after_its_header_was_read(model: LocalModel) -> None:
    os.remove(model.path)
    assert f"could not load {model.path}: failed to open GGUF file" in refusal(model)


@pytest.mark.parametrize("kept", [4, 1000, 60000])
def test_a_file_that_was_cut_after_its_header_was_read(model: LocalModel, kept: int) -> None:
    Path(model.path).write_bytes(Path(model.path).read_bytes()[:kept])
    assert f"llama.cpp could not load {model.path}: " in refusal(model)


@pytest.mark.parametrize("cut", [False, True])
def test_a_projector_of_another_model_is_named_and_not_the_model(model: LocalModel, tmp_path: Path, cut: bool) -> None:
    """Of another width, or damaged after its header was read."""
    eyes = random_projector.write(tmp_path / "mmproj.gguf", TINY.width if cut else 128)
    seeing = local_model(model.path, "CPU", -1, 512, 1, str(eyes), False)
    if cut:
        eyes.write_bytes(eyes.read_bytes()[:9000])
    said = refusal(seeing)
    assert f"llama.cpp could not load the projector {eyes} for m.gguf: " in said
    assert "Choose the projector that belongs to this model, or none." in said
    assert cut or "mismatch between text model (n_embd = 64) and mmproj (n_embd = 128)" in said
    assert f"could not load {model.path}" not in said


def test_a_model_that_fails_with_a_projector_is_still_named(model: LocalModel, tmp_path: Path) -> None:
    seeing = local_model(model.path, "CPU", -1, 512, 1, str(random_projector.write(tmp_path / "mmproj.gguf")), False)
    Path(model.path).write_bytes(Path(model.path).read_bytes()[:60000])
    assert f"llama.cpp could not load {model.path}: " in refusal(seeing)


def test_an_architecture_that_llama_cpp_does_not_know(model: LocalModel) -> None:
    path = Path(model.path)
    path.write_bytes(path.read_bytes().replace(b"llama", b"lamma"))
    assert "unknown model architecture: 'lamma'" in refusal(model)


def test_a_device_that_llama_cpp_does_not_have(model: LocalModel) -> None:
    said = refusal(replace(model, device="Vulkan7"))
    assert "cannot compute on Vulkan7: no device Vulkan7 for language models" in said
    assert f"-m pip install --force-reinstall --no-deps --index-url {server_process.GPU_INDEX} xllamacpp==" in said


def test_without_the_package(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "PACKAGE", "no_such_package")
    assert "-m pip install no_such_package" in refusal(model)


def test_a_child_sees_the_gpu_it_is_to_use_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are those of the devices that the user lets ggml see."""
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "2,0")
    assert server_process._device_in_child("Vulkan0") == ("Vulkan0", {"GGML_VK_VISIBLE_DEVICES": "2"})
    assert server_process._device_in_child("Vulkan1") == ("Vulkan0", {"GGML_VK_VISIBLE_DEVICES": "0"})
    assert server_process._device_in_child("Vulkan2") == ("Vulkan2", {})
    assert server_process._device_in_child("CPU") == ("CPU", {"GGML_DISABLE_VULKAN": "1"})
    monkeypatch.delenv("GGML_VK_VISIBLE_DEVICES")
    assert server_process._device_in_child("Vulkan1") == ("Vulkan1", {})


def test_nothing_is_left_of_a_killed_parent(model: LocalModel) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, model.path], cwd=PACK, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    eventually(lambda: not is_running(child), "the child's end")


def test_it_listens_on_loopback_alone_and_for_those_with_the_key(model: LocalModel) -> None:
    ask(model)
    engine = serving.running()
    assert engine is not None
    listening = [each for each in psutil.Process(engine.pid).net_connections() if each.status == psutil.CONN_LISTEN]
    assert [each.laddr.ip for each in listening] == ["127.0.0.1"]
    stranger = replace(engine.endpoint, key="")
    from native.llm.chat import complete

    with pytest.raises(LanguageModelError, match="answered 401"):
        complete(stranger, {"messages": []}, lambda _: None, lambda: False)


def test_the_key_is_in_no_command_line_variable_or_log(model: LocalModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        ask(model)
    engine = serving.running()
    assert engine is not None
    process, key = psutil.Process(engine.pid), engine.endpoint.key
    assert len(key) > 30
    assert key not in " ".join(process.cmdline()) + str(process.environ()) + caplog.text + engine.exit_report()
    assert key[-4:] not in caplog.text
    assert key not in repr(engine.endpoint)
