"""Frames, shared memory, and what the client side may not load."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from native.process.child import PACK
from native.wire.frames import FrameWriter, PeerGone, ProtocolError, receive
from native.wire.shared_memory import ALIGNMENT, Arena, ArenaView, layout


def test_frames_come_back_as_they_were_sent() -> None:
    pipe = io.BytesIO()
    writer = FrameWriter(pipe)
    writer.send({"id": 1, "name": "Füße"}, b"\x00\xff" * 3)
    writer.send({"id": 2})
    pipe.seek(0)
    assert receive(pipe) == ({"id": 1, "name": "Füße"}, b"\x00\xff" * 3)
    assert receive(pipe) == ({"id": 2}, b"")
    with pytest.raises(EOFError):
        receive(pipe)


def test_a_frame_cut_short_is_the_end() -> None:
    pipe = io.BytesIO()
    FrameWriter(pipe).send({"id": 1}, b"payload")
    with pytest.raises(EOFError):
        receive(io.BytesIO(pipe.getvalue()[:-1]))


@pytest.mark.parametrize("garbage", [b"ggml_vulkan: something printed", b"\x02\0\0\0" + bytes(8) + b"{]"])
def test_what_is_no_frame_is_refused(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        receive(io.BytesIO(garbage))


def test_writing_to_a_closed_pipe_says_so() -> None:
    pipe = io.BytesIO()
    pipe.close()
    with pytest.raises(PeerGone):
        FrameWriter(pipe).send({})


def test_the_arena_is_seen_from_both_sides_and_grows() -> None:
    arena = Arena()
    view = ArenaView(arena.name)
    for size in (10, 5 << 20):
        arena.reserve(size)
        arena.memory[size - 1] = 7
        assert view.memory(arena.size)[size - 1] == 7
        view.memory(arena.size)[0] = 9
        assert arena.memory[0] == 9
    assert not [name for name in Path("/dev/shm").glob("*") if "native" in name.name]
    arena.close()


def test_layout_aligns_every_block() -> None:
    offsets, end = layout([1, ALIGNMENT, 0, 3])
    assert offsets == [0, ALIGNMENT, 2 * ALIGNMENT, 2 * ALIGNMENT]
    assert end == 3 * ALIGNMENT


@pytest.mark.parametrize(("module", "unwanted"), [("native.client", "ggml"), ("native.client", "torch")])
def test_the_client_loads_neither_ggml_nor_torch(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACK, check=False).returncode == 0
