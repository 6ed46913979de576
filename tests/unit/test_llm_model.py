"""Which language model a node means, and what must not be in a workflow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from native.llm.model import check_url, local_model
from native.process.child import PACK
from native.weights import WeightFileError
from tests import random_llm, random_projector
from tests.unit.conftest import Write

SECRET = "sk-very-secret"


def test_a_file_is_another_model_once_it_changes(tmp_path: Path) -> None:
    path = random_llm.write(tmp_path / "m.gguf")
    first = local_model(str(path), "CPU", 3, 9000, 1, None, False)
    assert (first.context, first.layers) == (random_llm.TINY.context, 0)
    assert local_model(str(path), "CPU", 3, 9000, 1, None, False) == first
    os.utime(path, ns=(1, 1))
    assert local_model(str(path), "CPU", 3, 9000, 1, None, False) != first
    assert local_model(str(path), "Vulkan0", 3, 512, 1, None, False).layers == 3


def test_what_is_no_language_model_is_refused(tmp_path: Path, write_gguf: Write, write_safetensors: Write) -> None:
    flux, other = write_gguf("flux.gguf", {"a": ((32, 32), "F32")}, "flux"), write_safetensors("m.sft", {"a": (2,)})
    for path in (flux, other):
        with pytest.raises(WeightFileError, match="not a language model in GGUF format"):
            local_model(str(path), "CPU", -1, 512, 1, None, False)
    with pytest.raises(WeightFileError, match="does not exist"):
        local_model(str(tmp_path / "gone.gguf"), "CPU", -1, 512, 1, None, False)


@pytest.mark.parametrize(
    ("architecture", "more", "message"),
    [
        ("t5encoder", {}, "is a T5 model (architecture t5encoder), which writes no text"),
        ("t5", {}, "is a T5 model (architecture t5), which writes no text"),
        ("bert", {}, "is an embedding model (architecture bert), which writes no text"),
        ("modern-bert", {}, "is an embedding model"),
        ("qwen3", {"pooling_type": 3}, "is an embedding model (architecture qwen3), which writes no text"),
        ("gemma3", {"attention.causal": False}, "is an embedding model (architecture gemma3)"),
        ("llada", {}, "writes by diffusion"),
        ("clip", {}, "is a projector (architecture clip), the eyes of a language model. Choose it as projector"),
    ],
)
def test_models_that_write_no_text_are_refused_by_their_header(
    tmp_path: Path, architecture: str, more: dict[str, int | bool], message: str
) -> None:
    path = tmp_path / "m.gguf"
    header(path, architecture, {"block_count": 2, **more})
    with pytest.raises(WeightFileError) as error:
        local_model(str(path), "CPU", -1, 512, 1, None, False)
    assert message in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("more", [{}, {"pooling_type": 0}, {"attention.causal": True}])
def test_models_that_write_text_pass(tmp_path: Path, more: dict[str, int | bool]) -> None:
    header(tmp_path / "m.gguf", "qwen3", {"block_count": 2, **more})
    assert local_model(str(tmp_path / "m.gguf"), "CPU", -1, 512, 1, None, False).context == 512


def test_a_projector_that_is_none_is_refused_by_its_name(tmp_path: Path, write_safetensors: Write) -> None:
    words = random_llm.write(tmp_path / "m.gguf")
    local_model(str(words), "CPU", -1, 512, 1, str(random_projector.write(tmp_path / "eyes.gguf")), False)
    others = [random_llm.write(tmp_path / "other.gguf"), write_safetensors("mmproj.sft", {"a": (2,)})]
    for other in others:
        with pytest.raises(WeightFileError, match="is not a projector: its architecture is") as error:
            local_model(str(words), "CPU", -1, 512, 1, str(other), False)
        assert str(other) in str(error.value)
        assert str(words) not in str(error.value)


def header(path: Path, architecture: str, fields: dict[str, int | bool]) -> None:
    """Writes a GGUF file of one tensor with these fields of its architecture."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in fields.items():
        (writer.add_bool if isinstance(value, bool) else writer.add_uint32)(f"{architecture}.{name}", value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/v1", "https://host.example/v1", "http://[::1]:1/v1"])
def test_addresses(url: str) -> None:
    assert check_url(url) is None


@pytest.mark.parametrize(
    "url",
    ["", "host", "ftp://host/v1", "http://", "http://host:port/v1", "http://[::1/v1", "http://" + "h" * 100_000,
     "http://" + "h" * 64 + ".example/v1", "http://a..b/v1", "http://a b/v1", "http://a%20b/v1", "http://a\x00b/v1",
     "http://h:99999/v1", "http://h/\ud800", "http://\ud800/v1", "http://h/" + "v" * 100_000, "http://a\\b/v1"],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    said = check_url(url) or ""
    assert "is not a server address" in said
    assert len(said) < 300
    assert said.isprintable()


def test_a_login_in_an_address_is_refused_and_not_repeated() -> None:
    for login in (SECRET, f"a@{SECRET}", f"a/{SECRET}"):
        for url in (f"http://me:{login}@host/v1", f"http://me:{login}@host:port/v1"):
            said = check_url(url)
            assert said is not None
            assert SECRET not in said


def test_what_is_below_the_nodes_loads_neither_torch_nor_llama_cpp() -> None:
    loaded = "import sys, native.llm.answer, native.llm.expansion, native.llm.memory; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", loaded], cwd=PACK, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "comfy", "xllamacpp", "ggml"} & set(said.split())


def test_the_child_loads_nothing_of_our_side() -> None:
    loaded = "import sys, native.llm.__main__; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", loaded], cwd=PACK, capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "aiohttp", "native.client"} & set(said.split())
