"""The handler of the QR decomposition of matrices with few columns."""

from __future__ import annotations

import numpy as np

from ...program.builder import Builder, LowerError
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Operand, Shape, contiguous, contiguous_stride

_COLUMNS = 64  # each takes about thirty operations
_TINY = 1e-37


@handler("linalg_qr")
def qr(low: Lowering, out: Window, x: Window, mode: str = "reduced") -> tuple[Operand, Operand]:
    """Q and R of a matrix [rows, columns] by Householder's reflections (Golub and Van Loan 2013, section 5.2.2).

    Their signs are those of LAPACK's dlarfg, which torch calls.
    """
    if len(x.shape) != 2 or mode != "reduced" or x.shape[1] > min(x.shape[0], _COLUMNS):
        raise LowerError(f"the QR decomposition ({mode}) of {x.shape}")
    b = low.b
    size, columns = x.shape
    matrix = b.reshape(contiguous(b, low.operand(x).permuted((1, 0))), (columns, size))  # a column of x is a row here
    reflections = []
    for j in range(min(columns, size - 1)):
        reflections.append(_reflection(b, matrix, j))
        matrix = _reflected(b, matrix, *reflections[-1])
    q = b.constant(np.eye(columns, size, dtype="f4"))
    for normal, factor in reversed(reflections):
        q = _reflected(b, q, normal, factor)
    r = b.op("cont", b.window(matrix, [(columns, size), (columns, 1)], 0))
    r = b.op("mul", r, b.constant(np.tri(columns, dtype="f4")))
    return _turned(q, (columns, size)), _turned(r, (columns, columns))


def _turned(tensor: int, shape: Shape) -> Operand:
    return Operand(tensor, shape, contiguous_stride(shape)).permuted((1, 0))


def _reflection(b: Builder, matrix: int, j: int) -> tuple[int, int]:
    """The normal u of the mirror that makes row j zero after its element j, and f of x - f (x u) u."""
    size = b[matrix].ne[0]
    row = b.window(matrix, [(size, 1)], j * size)
    first, rest = (b.op("mul", row, b.constant((np.arange(size) >= start).astype("f4"))) for start in (j, j + 1))
    length = b.op("sqrt", _square(b, first))
    negative = b.op("relu", b.op("sgn", b.op("scale", b.window(matrix, [(1, 1)], j * size + j), factor=-1.0)))
    away = b.op("mul", length, b.op("scale", negative, factor=-2.0, bias=1.0))
    normal = b.op("add", first, b.op("mul", b.constant((np.arange(size) == j).astype("f4")), away))
    needed = b.op("sgn", _square(b, rest))  # LAPACK leaves a row alone that is zero there already
    square = b.op("scale", _square(b, normal), factor=1.0, bias=_TINY)
    return normal, b.op("scale", b.op("div", needed, square), factor=2.0)


def _square(b: Builder, vector: int) -> int:
    return b.op("sum_rows", b.op("sqr", vector))


def _reflected(b: Builder, rows: int, normal: int, factor: int) -> int:
    """Each row x as x - factor (x normal) normal."""
    size, count = b[rows].ne[:2]
    along = b.op("mul", b.op("sum_rows", b.op("mul", rows, normal)), factor)
    return b.op("sub", rows, b.op("mul", b.shaped("repeat", normal, (count, size)), along))
