"""Programs: they survive being written and read, and bytes that are none are refused."""

from __future__ import annotations

import numpy as np
import pytest

from native.program import Output, Program, Tensor
from native.program.program import ProgramError


def _program() -> Program:
    tensors = (
        Tensor("input", "x", "F32", (4, 2, 1, 1)),
        Tensor("constant", "c", "F32", (4, 1, 1, 1)),
        Tensor("op", "mul", "F32", (4, 2, 1, 1), (0, 1)),
        Tensor("op", "scale", "F32", (4, 2, 1, 1), (2,), (0.1, 0.0)),
    )
    return Program(tensors, (Output(3, (2, 4)),), {"c": np.arange(4, dtype=np.float32)})


def test_what_is_written_is_read() -> None:
    """Every field, and the same digest."""
    read = Program.from_bytes(_program().to_bytes())
    assert read.tensors == _program().tensors
    assert read.outputs == _program().outputs
    assert np.array_equal(read.constants["c"], np.arange(4))
    assert read.digest == _program().digest


def test_digest_tells_constants_apart() -> None:
    """The same operations on other numbers are another program."""
    other = Program(_program().tensors, _program().outputs, {"c": np.ones(4, np.float32)})
    assert other.digest != _program().digest


@pytest.mark.parametrize("length", [0, 3, 16, 40, -1])
def test_cut_bytes_are_refused(length: int) -> None:
    """Wherever they end."""
    with pytest.raises(ProgramError):
        Program.from_bytes(_program().to_bytes()[:length])


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("op", "scale", "F32", (4, 1, 1, 1), (9,), (1.0, 0.0)),
        Tensor("op", "explode", "F32", (4, 1, 1, 1), (0,)),
        Tensor("op", "mul", "F32", (4, 1, 1, 1), (0,)),
        Tensor("op", "scale", "F32", (4, 1, 1, 1), (0,), ()),
        Tensor("constant", "missing", "F32", (4, 1, 1, 1)),
        Tensor("leaf", "x", "F32", (4, 1, 1, 1)),
    ],
    ids=["source to come", "unknown operation", "too few sources", "no parameters", "no constant", "unknown kind"],
)
def test_contradictions_are_refused(tensor: Tensor) -> None:
    """Before anything is built from them."""
    first = Tensor("input", "x", "F32", (4, 1, 1, 1))
    with pytest.raises(ProgramError):
        Program((first, tensor), (), {}).check()
    with pytest.raises(ProgramError):
        Program((first,), (Output(5, (4,)),), {}).check()
