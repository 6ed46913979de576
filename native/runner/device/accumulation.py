"""Finds out whether a library's CPU backend sums products of F16 values in half precision.

It does where ggml was compiled for a processor with such instructions (ggml 0.15.3, ggml-cpu/simd-mappings.h:250, 365
and 482): sums then keep 11 bits and end at 65504.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from ...errors import RunnerError
from ...ggml_types import LAYOUTS
from ..ggml_binding import context, ggml, pointer

_INNER = 1024  # elements of a sum: several steps of the widest kernel, which takes 128 at once
_COLUMNS = 16
_CHANNELS = 256
_QUERIES = 64  # from which ggml's flash attention takes another kernel (ggml-cpu/common.h, ggml_fa_tile_config)


class Probed(NamedTuple):
    """Results of the CPU backend for the probe's numbers: [columns, 2 rows] of a product, [queries] of attention.

    one_column, one_query: of the same with only one, which other kernels may compute.
    """

    columns: np.ndarray
    one_column: np.ndarray
    queries: np.ndarray
    one_query: np.ndarray


def factors() -> tuple[np.ndarray, np.ndarray]:
    """Two rows of F16 weights [2, inner] and one column of F32 activations [inner] for a product.

    Row 0 sums to 2,097,664. Row 1 sums to 32,776, of which the last 8 come as addends of 1/64 to sums of 256 or more,
    where half precision is 1/4 apart. F32 has both exactly, in whatever order.
    """
    column = np.repeat(np.array([64.0, 1.0 / 64.0], "f4"), _INNER // 2)  # [inner]
    return np.stack([np.full(_INNER, 64.0, "f2"), np.ones(_INNER, "f2")]), column


def keys() -> np.ndarray:
    """F16 keys [2, channels] for a query of ones: scores of 2048 and 2048.5, whose last half comes in 128 addends."""
    first = np.repeat(np.array([16.0, 0.0], "f2"), _CHANNELS // 2)
    return np.stack([first, first + np.repeat(np.array([0.0, 2.0**-8], "f2"), _CHANNELS // 2)])


def sums_in_half(found: Probed) -> bool:
    """Whether results are not those of sums in F32.

    Attention has 1 % to spare, as softmax and its weighted sum of values are rounded, too; half precision is 12 % off.
    """
    weights, column = factors()
    product = weights.astype("f8") @ column  # [2]
    scores = keys().astype("f8").sum(1)  # [2]
    expected = 1.0 / (1.0 + np.exp(scores[0] - scores[1]))  # values of 0 and 1
    exact = all(np.allclose(each, product, rtol=1e-6) for each in (found.columns, found.one_column))
    return not (exact and all(np.allclose(each, expected, rtol=1e-2) for each in (found.queries, found.one_query)))


def probe(handle: int) -> Probed:
    """Compute the probe's products and attention on a CPU device, in about a millisecond."""
    weights, column = factors()
    described, backend = context(16, 16), ggml.ggml_backend_dev_init(handle, None)
    buffer = None
    try:
        matrix = _tensor(described, "F16", _INNER, 2)
        columns = _tensor(described, "F32", _INNER, _COLUMNS)
        query = _tensor(described, "F32", _CHANNELS, _QUERIES)
        key, value = (_tensor(described, "F16", _CHANNELS, 2) for _ in range(2))
        one_column = ggml.ggml_view_2d(described, columns, _INNER, 1, 4 * _INNER, 0)
        one_query = ggml.ggml_view_2d(described, query, _CHANNELS, 1, 4 * _CHANNELS, 0)
        results = [
            *(ggml.ggml_mul_mat(described, matrix, each) for each in (columns, one_column)),
            *(ggml.ggml_flash_attn_ext(described, q, key, value, None, 1.0, 0.0, 0.0) for q in (query, one_query)),
        ]
        graph = ggml.ggml_new_graph_custom(described, 16, False)
        for result in results:
            ggml.ggml_build_forward_expand(graph, result)
        buffer = ggml.ggml_backend_alloc_ctx_tensors(described, backend)
        if not backend or not buffer:
            raise RunnerError("there is not enough memory to start computing on the CPU")
        _write(matrix, weights)
        _write(columns, np.tile(column, (_COLUMNS, 1)))
        _write(query, np.ones((_QUERIES, _CHANNELS), "f4"))
        _write(key, keys())
        _write(value, np.repeat(np.array([[0.0], [1.0]], "f2"), _CHANNELS, 1))
        ggml.ggml_backend_cpu_set_n_threads(backend, 1)
        ggml.ggml_backend_graph_compute(backend, graph)
        many, one, queries, single = (_read(result) for result in results)
        return Probed(many.reshape(_COLUMNS, 2), one, queries[::_CHANNELS], single[::_CHANNELS])
    finally:
        if buffer:
            ggml.ggml_backend_buffer_free(buffer)
        if backend:
            ggml.ggml_backend_free(backend)
        ggml.ggml_free(described)


def _tensor(described: Any, type_: str, *ne: int) -> Any:
    return ggml.ggml_new_tensor(described, LAYOUTS[type_].number, len(ne), (ctypes.c_int64 * len(ne))(*ne))


def _write(tensor: Any, array: np.ndarray) -> None:
    data = np.ascontiguousarray(array)
    ggml.ggml_backend_tensor_set(tensor, pointer(data), 0, data.nbytes)


def _read(tensor: Any) -> np.ndarray:
    """A result's elements, flat."""
    data = np.empty(ggml.ggml_nelements(tensor), "f4")
    ggml.ggml_backend_tensor_get(tensor, pointer(data), 0, data.nbytes)
    return data
