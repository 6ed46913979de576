"""Models in several files: any one of them stands for all; one that is missing is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from native.weights import WeightFileError, read_header, read_parameter
from native.weights.scales import under
from native.weights.weight_file import shard_paths
from native.weights.weight_set import parameter

PARTS = {f"t{number}": np.full((2, 4), number, np.float32) for number in (1, 2, 3)}


def safetensors_set(folder: Path) -> list[Path]:
    paths = [folder / f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    for path, (name, value) in zip(paths, PARTS.items(), strict=True):
        save_file({name: value}, path)
    return paths


def gguf_set(folder: Path) -> list[Path]:
    """As llama.cpp's gguf-split writes them, whose first part may hold no tensor."""
    paths = [folder / f"model-{number:05}-of-00004.gguf" for number in (1, 2, 3, 4)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 4)
        if number:
            writer.add_tensor(f"t{number}", PARTS[f"t{number}"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


@pytest.mark.parametrize("write", [safetensors_set, gguf_set])
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_any_part_stands_for_all(write: Callable[[Path], list[Path]], chosen: int, tmp_path: Path) -> None:
    paths = write(tmp_path)
    header = read_header(paths[chosen])
    assert header.path == str(paths[0])
    assert header.files == tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    for name, stored in under(header, "").items():
        held = parameter(name, stored.shape, stored.runs, [stored])
        assert np.array_equal(read_parameter(held), PARTS[name])
    assert header.tensors.keys() == PARTS.keys()


@pytest.mark.parametrize("write", [safetensors_set, gguf_set])
def test_a_missing_part_is_named(write: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    paths = write(tmp_path)
    paths[1].unlink()
    with pytest.raises(WeightFileError, match=f"one of {len(paths)} files .*, and 1 of them .*{paths[1].name}"):
        read_header(paths[0])


def test_two_parts_with_the_same_tensor_are_refused(tmp_path: Path) -> None:
    paths = safetensors_set(tmp_path)
    save_file({"t1": PARTS["t1"]}, paths[2])
    with pytest.raises(WeightFileError, match="both hold t1"):
        read_header(paths[0])


@pytest.mark.parametrize("name", ["a.gguf", "a-00000-of-00003.gguf", "a-00004-of-00003.gguf", "a-1-of-3.safetensors"])
def test_names_of_whole_models(name: str) -> None:
    assert shard_paths(name) == []
