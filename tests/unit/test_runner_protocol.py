"""Frames, the messages in them, shared memory, and what each side of the wire may not load."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import io
import json
import os
import struct
import subprocess
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import pytest

from native import errors
from native.client.connection import ProcessDied, RunnerProcess
from native.placement import Placement
from native.process.child import PACK
from native.weights.runs import Factors, Run, Scaling
from native.weights.weight_set import Parameter
from native.wire import failures, messages
from native.wire.frames import Frame, FrameWriter, PeerGone, ProtocolError, receive
from native.wire.shared_memory import ALIGNMENT, Arena, ArenaView, layout
from native.wire.turn import Turn

PROGRAM = messages.ProgramRequest("Füße")
NOT_SENT = {messages.Step}  # a call of the client, which travels as the request for it


def through(message: messages.Message, payload: bytes = b"") -> Frame:
    """Sends a message through a pipe and returns the frame that arrives."""
    pipe = io.BytesIO()
    FrameWriter(pipe).send(7, message, payload)
    pipe.seek(0)
    return receive(pipe)


def test_frames_come_back_as_they_were_sent() -> None:
    pipe = io.BytesIO()
    writer = FrameWriter(pipe)
    writer.send(1, PROGRAM, b"\x00\xff" * 3)
    writer.send(2, messages.MemoryRequest())
    pipe.seek(0)
    assert receive(pipe) == (1, PROGRAM, b"\x00\xff" * 3)
    assert receive(pipe) == (2, messages.MemoryRequest(), b"")
    with pytest.raises(EOFError):
        receive(pipe)


def test_a_frame_cut_short_is_the_end() -> None:
    pipe = io.BytesIO()
    FrameWriter(pipe).send(1, PROGRAM, b"payload")
    with pytest.raises(EOFError):
        receive(io.BytesIO(pipe.getvalue()[:-1]))


def classes() -> list[Any]:
    """Every dataclass of the messages that travels."""
    both = failures, messages
    found = [kind for module in both for _, kind in inspect.getmembers(module, dataclasses.is_dataclass)]
    return [kind for kind in found if kind.__module__ in (each.__name__ for each in both) and kind not in NOT_SENT]


def values(hint: Any) -> Iterator[Any]:
    """Values of a type: every alternative of a union, and collections with and without content."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        for argument in arguments:
            yield from values(argument)
    elif origin is typing.Literal:
        yield from arguments
    elif origin is tuple and arguments[-1] is Ellipsis:
        yield tuple(values(arguments[0]))
        yield ()
    elif origin is tuple:
        yield tuple(next(values(argument)) for argument in arguments)
    elif origin is Mapping:
        yield {f"key {number}": value for number, value in enumerate(values(arguments[1]))}
        yield {}
    elif dataclasses.is_dataclass(hint):
        yield from instances(hint)
    else:
        plain: Any = {str: ["", "Füße \n\0"], int: [0, 1 << 62], bool: [True, False], float: [0.1, float("inf"), 3]}
        yield from {**plain, NoneType: [None]}[hint]


def instances(kind: Any) -> Iterator[Any]:
    """Objects of a dataclass in which every field once has each of its values."""
    hints = typing.get_type_hints(kind)
    choices = [list(values(hints[field.name])) for field in dataclasses.fields(kind)]
    for index in range(max(map(len, choices), default=1)):
        yield kind(*(choice[index % len(choice)] for choice in choices))


def reachable(hint: Any) -> set[Any]:
    """The dataclasses that a type's values hold."""
    found = set().union(*map(reachable, typing.get_args(hint)))
    if dataclasses.is_dataclass(hint):
        found |= {hint}.union(*map(reachable, typing.get_type_hints(hint).values()))
    return found


def test_every_class_of_the_messages_travels() -> None:
    assert reachable(messages.Message) == {*classes(), Placement, Parameter, Run, Scaling, Factors, Turn}


@pytest.mark.parametrize("kind", typing.get_args(messages.Message))
def test_messages_come_back_as_they_were_sent(kind: Any) -> None:
    for message in instances(kind):
        assert through(message).message == message


@pytest.mark.parametrize("kind", typing.get_args(messages.Message))
def test_a_field_of_the_wrong_type_is_refused(kind: Any) -> None:
    message = next(instances(kind))
    for field in dataclasses.fields(kind):
        with pytest.raises(ProtocolError, match="is no"):
            through(dataclasses.replace(message, **{field.name: [None, None]}))


def frame(content: Any) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<IQ", len(text), 0) + text


MALFORMED = {
    "something printed": b"ggml_vulkan: something printed",
    "no JSON": b"\x02\0\0\0" + bytes(8) + b"{]",
    "no list": frame({"id": 1, "do": "memory"}),
    "no number": frame(["1", ["MemoryRequest"]]),
    "no message": frame([1, None]),
    "no name": frame([1, []]),
    "an unknown message": frame([1, ["FormatDiskRequest"]]),
    "a class that is no message": frame([1, ["DeviceMemory", "CPU", 0, 0, 0, 0]]),
    "a field too many": frame([1, ["MemoryRequest", 1]]),
    "a field too few": frame([1, ["ProgramRequest"]]),
    "a field of another type": frame([1, ["ProgramRequest", 1]]),
    "a float that is text": frame([1, ["Progress", "0", 1]]),
    "a truth value for a number": frame([1, ["InterruptRequest", True]]),
    "an unknown word": frame([1, ["Reply", ["Lacking", "money", []], {}]]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_frame_or_no_message_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        receive(io.BytesIO(MALFORMED[name]))


@pytest.mark.parametrize("name", [*MALFORMED, "a message of the runner"])
def test_a_malformed_request_ends_the_runner_and_not_in_a_hang(name: str) -> None:
    process = RunnerProcess()
    process._child.stdin.write({**MALFORMED, "a message of the runner": frame([1, ["DriversEvent", True]])}[name])
    process._child.stdin.flush()
    with pytest.raises(ProcessDied, match=r"exit code 3(.|\n)*(something else|is no|is not JSON|only the runner)"):
        process.exchange(messages.MemoryRequest(), b"", timeout=60)
    process.close()


@pytest.mark.parametrize("name", [*MALFORMED, "a message of the client"])
def test_a_malformed_reply_ends_the_runner_and_not_in_a_hang(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {**MALFORMED, "a message of the client": frame([1, ["MemoryRequest"]])}[name]
    code = f"import os, time; os.write(1, {data!r}); time.sleep(600)"
    monkeypatch.setattr("native.process.child._START", code.replace("{", "{{").replace("}", "}}"))
    process = RunnerProcess()
    with pytest.raises(ProcessDied, match=r"(something else|is no|is not JSON|only the client)"):
        process.exchange(messages.MemoryRequest(), b"", timeout=60)
    process.close()


ERRORS = (
    errors.RunnerError("a file is gone"),
    errors.OutOfMemory("Vulkan0", "the weights of FLUX", 3 << 30, 1 << 20),
    errors.Interrupted("the run was interrupted"),
    errors.Missing("weights"),
    errors.Missing("arrays", ("digest", "another")),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exceptions_come_back_as_they_were_raised(error: Exception) -> None:
    reply = through(messages.Reply(failures.failure(error), {})).message
    assert isinstance(reply, messages.Reply)
    assert isinstance(reply.result, failures.Failure)
    found = failures.exception(reply.result)
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_an_exception_of_another_kind_is_told_with_its_type() -> None:
    found = failures.exception(failures.failure(KeyError("w")))
    assert (type(found), str(found)) == (errors.RunnerError, "KeyError: 'w'")


def test_writing_to_a_closed_pipe_says_so() -> None:
    pipe = io.BytesIO()
    pipe.close()
    with pytest.raises(PeerGone):
        FrameWriter(pipe).send(1, PROGRAM)


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


IMPORTS = (
    ("native.client", ("ggml", "torch", "comfy", "native.runner")),
    ("native.wire.frames", ("ggml", "torch", "comfy", "native.runner", "native.client")),
    ("native.runner.service", ("torch", "comfy", "native.client")),
)


@pytest.mark.parametrize(("module", "unwanted"), [(module, each) for module, listed in IMPORTS for each in listed])
def test_neither_side_of_the_wire_loads_what_is_the_others(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACK, check=False).returncode == 0


def test_shared_memory_that_the_system_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena()

    def refuse(_descriptor: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(errors.RunnerError, match=r"no 3 MiB of shared memory.*No space left"):
            arena.reserve((2 << 20) + 1)
    arena.reserve(1)  # what follows goes on
    assert len(arena.memory) == 1 << 20
    arena.close()
