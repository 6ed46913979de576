"""safetensors headers: what the safetensors package says, and every way of being wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from native.weights import WeightFileError, read_header

Write = Callable[..., Path]
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def content(header: Any, data: int = 16) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(data)


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refused(tmp_path: Path, whole: bytes) -> str:
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole)
    with pytest.raises(WeightFileError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_every_type_is_found_where_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    tensors = {name: torch.arange(24).reshape(2, 3, 4).to(dtype) for name, dtype in DTYPES.items()}
    save_file(tensors, path, {"modelspec.architecture": "flux-1-dev"})
    found = read_header(path)
    whole = path.read_bytes()
    assert found.format == "safetensors"
    assert found.architecture == "flux-1-dev"
    assert found.tensors.keys() == DTYPES.keys()
    for name, tensor in found.tensors.items():
        assert (tensor.stored, tensor.shape) == (name, (2, 3, 4))
        written = tensors[name].view(torch.uint8).numpy().tobytes()
        assert whole[tensor.offset : tensor.offset + tensor.nbytes] == written


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"scale": torch.tensor(2.0), "scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}, path)
    found = read_header(path).tensors
    assert (found["scale"].shape, found["scale"].nbytes) == ((), 4)
    assert (found["scaled_fp8"].shape, found["scaled_fp8"].nbytes) == ((0,), 0)


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        (content({"a": entry()})[:9], "announces a header of"),
        (struct.pack("<Q", 1 << 63) + b"{}", "announces a header of 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 1) + b"{}", "announces a header of 1 bytes"),
        (struct.pack("<Q", 200_000_000) + b"{}", "announces a header of 200,000,000 bytes"),
        (content(b'{"a": '), "not JSON"),
        (content(b'{"a": "\xff"}'), "not JSON"),
        (content(b'{"a": ' + b"[" * 100_000 + b"}"), "not JSON"),
        (content(b'{"a": 1' + b"0" * 5000 + b"}"), "not JSON"),
        (content(b'{"a": {"dtype": "F32", "dtype": "F32"}}'), "listed twice"),
        (content(b'{"a": 1, "a": 2}'), "listed twice"),
        (content({}), "holds no tensors"),
        (content({"__metadata__": []}), "metadata"),
        (content({"a\nb": entry()}), "calls a tensor 'a\\nb'"),
        (content({"a" * 1025: entry()}), "calls a tensor 'aaa"),
        (content({"a": 3}), "describes the tensor a by 3"),
        (content({"a": {}}), "describes the tensor a by shape None"),
        (content({"a": entry(shape=[-4])}), "shape [-4]"),
        (content({"a": entry(shape=[4.0])}), "shape [4.0]"),
        (content({"a": entry(shape=[True, 4])}), "shape [True, 4]"),
        (content({"a": entry(shape=[1 << 64, 0])}), "shape [18446744073709551616, 0]"),
        (content({"a": entry(shape=[1 << 40, 1 << 40, 0], offsets=(0, 0))}), "which no tensor can have"),
        (content({"a": entry(shape=[1] * 9 + [4])}), "shape [1, 1"),
        (content({"a": entry(shape="4")}), "shape '4'"),
        (content({"a": entry(offsets=[0, 16, 32])}), "offsets [0, 16, 32]"),
        (content({"a": entry(offsets=[16, 0])}), "gives -16 bytes to the F32 tensor a [4], which takes 16"),
        (content({"a": entry(shape=[5])}), "gives 16 bytes to the F32 tensor a [5], which takes 20"),
        (content({"a": entry(shape=[1 << 62] * 8)}), "gives 16 bytes"),
        (content({"a": entry("F4", [32])}), "stored as 'F4'"),
        (content({"a": entry("Q4_0", [32], [0, 18])}, 18), "stored as 'Q4_0'"),
        (content({"a": entry(["F32"])}), "stored as ['F32']"),
        (content({"a": entry()}, 15), "places the tensor a at"),
        (content({"a": entry(), "b": entry(offsets=[12, 28])}, 28), "tensors a and b over each other"),
        (content({"a": entry(), "b": entry(offsets=[20, 36])}, 36), "a gap of 4 bytes between a and b at byte"),
        (content({"b": entry(offsets=[20, 36]), "a": entry()}, 36), "a gap of 4 bytes between a and b at byte"),
        (content({"a": entry(offsets=[8, 24])}, 24), "a gap of 8 bytes between the header and a at byte"),
        (content({"a": entry()}, 17), "bytes long but its header describes"),
        (content({"a": entry(shape=[0], offsets=[0, 0])}, 1), "bytes long but its header describes"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, whole: bytes, says: str) -> None:
    assert says in refused(tmp_path, whole)


@pytest.mark.parametrize("seed", range(40))
def test_what_the_package_refuses_is_refused(tmp_path: Path, seed: int) -> None:
    """Tensors in any order, some moved, longer, shorter or taken out, and bytes behind them."""
    chance = Random(seed)
    lengths = [chance.randrange(5) for _ in range(5)]
    entries, end = {}, 0
    for number, length in enumerate(lengths):
        entries[str(number)] = entry(shape=(length,), offsets=[end, end + 4 * length])
        end += 4 * length
    if chance.random() < 0.7:
        moved = entries[str(chance.randrange(5))]
        by = chance.choice((4, 8, -4))
        moved["data_offsets"] = [max(0, offset + by) for offset in moved["data_offsets"]]
    if chance.random() < 0.3:
        del entries[str(chance.randrange(5))]
    names = chance.sample(list(entries), len(entries))
    path = tmp_path / "model.safetensors"
    path.write_bytes(content({name: entries[name] for name in names}, max(0, end + chance.choice((0, 0, 0, 1, -1)))))
    try:
        with safe_open(path, "np") as file:
            theirs = set(file.keys())
    except SafetensorError:
        refused(tmp_path, path.read_bytes())
    else:
        assert read_header(path).tensors.keys() == theirs


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{}")
        file.truncate(200_000_000)
    with pytest.raises(WeightFileError, match="announces a header of 100,000,001 bytes"):
        read_header(path)


def test_truncated_at_every_byte(write_safetensors: Write, tmp_path: Path) -> None:
    whole = write_safetensors("whole.safetensors", {"a": (3, 4), "b": (5,)}, {"format": "pt"}).read_bytes()
    for length in range(len(whole)):
        refused(tmp_path, whole[:length])
