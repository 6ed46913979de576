"""Programs: they survive being written and read, and bytes that are none are refused."""

from __future__ import annotations

import numpy as np
import pytest

from native.program import Output, Program, Tensor
from native.program.builder import Builder
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


def test_constants_without_values() -> None:
    """A program to count bytes with: shapes and types stay, and its size does not hang on theirs."""
    shape = (1 << 20,)
    tensors = (Tensor("input", "x", "F32", (*shape, 1, 1, 1)), Tensor("constant", "c", "F32", (*shape, 1, 1, 1)))
    program = Program(tensors, (Output(0, shape),), {"c": np.ones(shape, np.float32)})
    written = program.without_values().to_bytes()
    assert len(written) < 1024
    read = Program.from_bytes(written)
    assert (read.tensors, read.outputs, read.has_values) == (tensors, program.outputs, False)
    assert (read.constants["c"].shape, read.constants["c"].dtype) == (shape, np.float32)
    assert read.digest == program.without_values().digest != program.digest


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
        Tensor("op", "silu", "F32", (2, 2, 1, 1), (0,)),
        Tensor("op", "silu", "F16", (4, 1, 1, 1), (0,)),
        Tensor("op", "concat", "F32", (4, 1, 1, 1), (0, 0), (0,)),
        Tensor("op", "view", "F32", (4, 1, 1, 1), (0,), (2, 1, 1, 1, 16, 16, 16, 0)),
        Tensor("op", "permute", "F32", (4, 1, 1, 1), (0,), (0, 0, 2, 3)),
        Tensor("op", "conv_2d", "F32", (1, 1, 1, 1), (0, 0), (0, 1, 0, 0, 1, 1)),
        Tensor("op", "scale", "F32", (4, 1, 1, 1), (0,), ("much", 0.0)),
        Tensor("op", "reshape", "F32", (0, 1, 1, 1), (0,)),
    ],
    ids=[
        "source to come", "unknown operation", "too few sources", "no parameters", "no constant", "unknown kind",
        "wrong ne", "wrong type", "wrong sum of ne", "ne that its parameters contradict", "axes twice", "stride of 0",
        "parameter of the wrong type", "empty",
    ],
)  # fmt: skip
def test_contradictions_are_refused(tensor: Tensor) -> None:
    """Before anything is built from them."""
    first = Tensor("input", "x", "F32", (4, 1, 1, 1))
    with pytest.raises(ProgramError):
        Program((first, tensor), (), {}).check()
    with pytest.raises(ProgramError):
        Program((first,), (Output(5, (4,)),), {}).check()


def test_a_wrong_ne_is_named() -> None:
    """The message says which operation, and what its sources make it."""
    first = Tensor("input", "x", "F32", (4, 2, 1, 1))
    wrong = Tensor("op", "concat", "F32", (8, 2, 1, 1), (0, 0), (1,))
    with pytest.raises(ProgramError, match=r"operation 1, op concat F32\[8, 2, 1, 1\].*make it F32\[4, 4, 1, 1\]"):
        Program((first, wrong), (), {}).check()


def test_the_builder_infers_shapes_and_types() -> None:
    """From sources and named parameters; it refuses what the table does not have."""
    b = Builder()
    matrix, x = b.leaf("weight", "w", "Q8_0", (3, 32)), b.leaf("input", "x", "F32", (2, 5, 32))
    product = b.op("mul_mat", matrix, x)
    assert (b[product].ne, b[product].type, b[product].parameters) == ((3, 5, 2, 1), "F32", ("F32",))
    half = b.op("cast", product, type="F16")
    assert b[b.op("concat", half, half, dim=1)] == Tensor("op", "concat", "F16", (3, 10, 2, 1), (half, half), (1,))
    padded = b.op("pad", x, l0=1, r0=2, l1=0, r1=0, l2=0, r2=3, l3=0, r3=0)
    assert b[padded].ne == (35, 5, 5, 1)
    assert b.again(padded, [product]) != padded
    for name, sources, parameters in (
        ("norm", (x,), {}), ("norm", (x,), {"epsilon": 1e-5}), ("norm", (x,), {"eps": "small"}),
        ("mul_mat", (x,), {}), ("repeat", (x,), {}),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            b.op(name, *sources, **parameters)


def test_strides_of_dimensions_of_one_stay_within_31_bits() -> None:
    """Every third element of 2.4 GB: ggml_permute takes a stride for an int."""
    b = Builder()
    count = 3 << 26
    column = b.window(b.leaf("input", "x", "F32", (count, 3)), [(count, 3), (1, 1)], 1)
    assert b[column].parameters.nb == (12, 12, 12)


def test_listing() -> None:
    """A line for each tensor: index, type and ne, then the operation with what it takes, by name."""
    lines = _program().listing(["", "", "block.0", "block.0.out"]).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "%0 F32[4, 2] input x",
        "%1 F32[4] constant c",
        "%2 F32[4, 2] mul(x, c) # block.0",
        "%3 F32[4, 2] scale(%2, factor=0.1, bias=0.0) # block.0.out",
        "output 0: %3, shape [2, 4]",
    ]
