"""Estimated memory of a language model, from its header and from llama.cpp's estimate, against what it allocates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from native.llm.memory import LanguageModelMemory, compute_buffers, memory_of, memory_of_model
from native.llm.model import ALL_LAYERS, local_model
from native.placement import MIB
from native.weights import read_header
from tests import random_llm
from tests.llama_allocations import allocated
from tests.random_llm import Sizes

BLOCKS = 3


@pytest.mark.parametrize("context", [256, 700, 4096])
def test_what_is_known_beforehand_is_what_is_taken(tmp_path: Path, context: int) -> None:
    path = random_llm.write(tmp_path / "m.gguf", Sizes(layers=BLOCKS))
    model = local_model(str(path), "CPU", ALL_LAYERS, context, 1, None, False)
    known, said = memory_of_model(model), allocated(model)
    taken = {kind: sum(size for (_, each), size in said.items() if each == kind) for _, kind in said}
    assert known.on_device == 0
    assert taken["model"] == pytest.approx(known.weights_on_cpu / MIB, abs=0.006)
    assert taken["KV"] == pytest.approx(known.kv_on_cpu / MIB, abs=0.006)
    buffers = taken["compute"]
    (where, reckoned), *others = compute_buffers(model).items()
    assert (where, others) == ("CPU", [])
    assert buffers - 0.011 <= reckoned / MIB <= buffers + 0.021


def test_layers_are_shared_out(tmp_path: Path) -> None:
    """The last layers go to the device, the output with the first of them; the embeddings of the input stay."""
    header = read_header(random_llm.write(tmp_path / "m.gguf", Sizes(layers=BLOCKS)))
    sizes = {name: tensor.nbytes for name, tensor in header.tensors.items()}
    block = sum(size for name, size in sizes.items() if name.startswith("blk.0."))
    output = sizes["output.weight"] + sizes["output_norm.weight"]
    embeddings, kv = sizes["token_embd.weight"], 512 * 2 * 32 * 2

    def of(layers: int) -> LanguageModelMemory:
        return memory_of(header, "Vulkan0", layers, 300)

    everything = LanguageModelMemory(BLOCKS * block + output, embeddings, BLOCKS * kv, 0)
    assert of(ALL_LAYERS) == of(BLOCKS + 1) == of(99) == everything
    assert of(2) == LanguageModelMemory(block + output, 2 * block + embeddings, kv, 2 * kv)
    assert of(1) == LanguageModelMemory(output, BLOCKS * block + embeddings, 0, BLOCKS * kv)
    assert of(0) == LanguageModelMemory(0, sum(sizes.values()), 0, BLOCKS * kv) == memory_of(header, "CPU", 2, 300)


def test_tied_embeddings_are_on_both(tmp_path: Path) -> None:
    header = read_header(random_llm.write(tmp_path / "m.gguf", Sizes(tied=True)))
    embeddings = header.tensors["token_embd.weight"].nbytes
    every = sum(tensor.nbytes for tensor in header.tensors.values())
    taken = memory_of(header, "Vulkan0", ALL_LAYERS, 256)
    assert (taken.weights, taken.weights_on_cpu) == (every, embeddings)
    assert memory_of(header, "CPU", ALL_LAYERS, 256).weights_on_cpu == every


def test_reckoning_loads_nothing_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = random_llm.write(tmp_path / "m.gguf")
    model = local_model(str(path), "CPU", ALL_LAYERS, 512, 1, None, False)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(Exception, match="could not work out what .*m.gguf takes"):
        compute_buffers(model)


def test_a_projector_is_where_the_model_is(tmp_path: Path) -> None:
    path, eyes = random_llm.write(tmp_path / "m.gguf"), random_llm.write(tmp_path / "mmproj.gguf", Sizes(layers=1))
    nbytes = sum(tensor.nbytes for tensor in read_header(eyes).tensors.values())
    for device in ("CPU", "Vulkan0"):
        blind = local_model(str(path), device, ALL_LAYERS, 512, 1, None, False)
        seeing = memory_of_model(replace(blind, projector=str(eyes)))
        on_cpu, on_device = (nbytes, 0) if device == "CPU" else (0, nbytes)
        assert seeing.on_cpu == memory_of_model(blind).on_cpu + on_cpu
        assert seeing.on_device == memory_of_model(blind).on_device + on_device
