"""Damaged headers: each still describes tensors inside the file, or is refused in words; nothing else happens."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from native.weights import WeightFile, WeightFileError, read_header, read_parameter
from native.weights.scales import under
from native.weights.weight_set import parameter_of
from tests.weight_sets import affine, weight_set

Write = Callable[..., Path]
ROUNDS = 200
MEMORY = 16 << 20  # bytes, for files of about 60 kB

NAMES = affine(*(f"double_blocks.{block}.{layer}" for block in range(4) for layer in ("img_mod", "img_attn", "mlp.0")))


def tensors() -> dict[str, tuple[tuple[int, ...], str]]:
    """A model of arbitrary small shapes, and a folded tensor."""
    model = {name: ((6, 64), "Q8_0") if name.endswith("weight") else ((6,), "F32") for name in NAMES}
    unused = {f"unused.{number}.a_rather_long_name": ((6,), "F32") for number in range(8)}
    return {**model, **unused, "folded.weight": ((2, 256), "Q4_K")}


def mutated(content: bytes, header: int, seed: int) -> bytes:
    """The content with one to eight bytes of its header changed, put in or taken out."""
    chance = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(4, header)
        kind = chance.randrange(6)
        if kind == 0:
            damaged[at] = chance.randrange(256)
        elif kind == 1:
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            damaged[at : at + 8] = chance.randbytes(8)
        elif kind == 3:
            damaged[at] = chance.choice((0, 1, 127, 128, 255))
        elif kind == 4:
            damaged.insert(at, chance.randrange(256))
        else:
            del damaged[at]
    return bytes(damaged)


def use(header: WeightFile) -> None:
    """Everything that is done with a header; raises WeightFileError at most."""
    for name, tensor in header.tensors.items():
        assert 0 <= tensor.offset <= tensor.offset + tensor.nbytes <= header.size
        try:
            read_parameter(parameter_of(header, tensor, name))
        except WeightFileError:
            continue
    weight_set(header, "model", under(header, ""), NAMES)


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_damaged_headers(write_gguf: Write, write_safetensors: Write, tmp_path: Path, kind: str) -> None:
    if kind == "gguf":
        arrays = {"tokens": ["ab", "c", ""] * 40, "comfy.gguf.orig_shape.folded.weight": [8, 64]}
        path = write_gguf("whole.gguf", tensors(), "flux", arrays)
    else:
        path = write_safetensors("whole.safetensors", {name: shape for name, (shape, _) in tensors().items()})
    use(read_header(path))
    content = path.read_bytes()
    data = min(tensor.offset for tensor in read_header(path).tensors.values())
    messages = []
    for seed in range(ROUNDS):
        damaged = tmp_path / f"{seed}.{kind}"
        damaged.write_bytes(mutated(content, data, seed))
        tracemalloc.start()
        try:
            use(read_header(damaged))
        except WeightFileError as error:
            messages.append(str(error))
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MEMORY, seed
    # A changed bias or metadata value leaves a readable GGUF header; that of safetensors covers its file exactly.
    assert ROUNDS // 2 < len(messages) < ROUNDS + (kind == "safetensors")
    for message in messages:
        assert message.startswith(str(tmp_path))
        assert message.isprintable()
        assert len(message) < 2000


def test_noise_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for round_, start in enumerate((b"GGUF\x03\0\0\0", b"\x40\0\0\0\0\0\0\0{", b"", b"GGUF") * 10):
        path = tmp_path / f"{round_}.gguf"
        path.write_bytes(start + rng.bytes(4000))
        with pytest.raises(WeightFileError):
            read_header(path)
