"""What a model does to every token alone is done to some tokens at a time where its inside is wider than its result.

A feed-forward, say: the product that widens, the activation and the product that narrows run for some of the tokens,
then for the next, and only the narrow results are kept. The arithmetic is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ...program.builder import Builder, Ne
from ...program.ops import UNARY
from .rewriter import Rewriting, needed, users

_TILE = 64  # tokens; the matrix kernels of a GPU work on whole tiles
_ALONE = (*(name for name in UNARY if name not in ("sum_rows", "mean")), "scale", "clamp", "reshape")
_BINARY = ("add", "sub", "mul", "div")


def in_chunks(b: Builder, outputs: Sequence[int], chunk_threshold_bytes: int, tokens: int) -> list[int]:
    """The outputs on a table in which narrowing products of `wide_bytes` and more run on about `tokens` at a time."""
    indices = needed(b, outputs)
    using = users(b, indices, outputs)
    regions = {
        index: region
        for index in indices
        if b[index].name == "mul_mat" and (region := _region(b, index, using, chunk_threshold_bytes, tokens))
    }
    rewriting = Rewriting(b)
    rewriting.run(indices, lambda old: _chunked(rewriting, old, regions[old], tokens) if old in regions else None)
    return [rewriting[output] for output in outputs]


def _region(b: Builder, product: int, using: dict[int, list[int]], chunk_threshold_bytes: int, tokens: int) -> set[int]:
    """What a narrowing product of many tokens hangs on alone, as far as it is wide and keeps tokens apart."""
    count = b[product].ne[1]
    first = b[product].sources[1]
    if count < 2 * tokens or not _apart(b, product, count) or b.nbytes(first) < chunk_threshold_bytes:
        return set()
    region: set[int] = set()
    reached = [first]
    while reached:
        index = max(reached)  # after everything that takes it
        reached.remove(index)
        alone = all(user in region or user == product for user in using[index])
        if alone and b.numel(index) > b.numel(product) and _apart(b, index, count):
            region.add(index)
            reached += [source for source in b[index].sources if source not in reached]
    inputs = {source for index in (*region, product) for source in b[index].sources} - region
    cut = [source for source in inputs if not _whole(b, source, count) and not _cuttable(b, source, count)]
    widens = any(b[index].name == "mul_mat" for index in region)
    return region if widens and not cut else set()


def _root(b: Builder, index: int) -> int:
    while b[index].name in ("view", "reshape") and b[index].kind == "op":
        index = b[index].sources[0]
    return index


def _axis(ne: Ne) -> int:
    """The dimension that tokens are along: the slowest that has more than one element."""
    return max((axis for axis in range(4) if ne[axis] != 1), default=0)


def _by_token(ne: Ne, count: int) -> bool:
    return ne[_axis(ne)] % count == 0


def _whole(b: Builder, index: int, count: int) -> bool:
    """Whether a source is the same for every token: a weight or a vector."""
    return b[_root(b, index)].kind == "weight" or not _by_token(b[index].ne, count)


def _cuttable(b: Builder, index: int, count: int) -> bool:
    """Whether some tokens of a source can be seen without a copy."""
    tensor = b[index]
    if tensor.name == "view":
        return tensor.ne[1] == count and tensor.ne[2:] == (1, 1)
    return tensor.name != "permute" and _by_token(tensor.ne, count)


def _apart(b: Builder, index: int, count: int) -> bool:
    """Whether an operation computes every token of its result from the same token of its sources, and from weights."""
    tensor = b[index]
    if tensor.kind != "op" or not _by_token(tensor.ne, count):
        return False
    matrix = tensor.ne[1] == count and tensor.ne[2:] == (1, 1)
    sources = [b[source].ne for source in tensor.sources]
    if tensor.name in _ALONE:
        return _by_token(sources[0], count)
    if tensor.name in _BINARY:
        return sources[0] == tensor.ne and (sources[1] == tensor.ne or (matrix and sources[1][1:] == (1, 1, 1)))
    if tensor.name == "mul_mat":
        return matrix and b[_root(b, tensor.sources[0])].kind == "weight"
    if tensor.name == "concat":
        return matrix and tensor.parameters[0] == 0
    if tensor.name in ("norm", "rms_norm"):
        return matrix
    return tensor.name == "view" and matrix and sources[0][1:] == tensor.ne[1:] and _rows_of(b, index)


def _rows_of(b: Builder, view: int) -> bool:
    """Whether a view shows columns of every row of its source."""
    row = 4 * b[b[view].sources[0]].ne[0]
    return b[view].parameters[4] == row and int(b[view].parameters[7]) < row


def _chunked(rewriting: Rewriting, product: int, region: set[int], tokens: int) -> int:
    """The product's result, made in chunks and put together."""
    b = rewriting.b
    count = b[product].ne[1]
    step = -(-count // (count // tokens) // _TILE) * _TILE
    results = []
    for start in range(0, count, step):
        chunk = range(start, min(start + step, count))
        made: dict[int, int] = {}
        for index in (*sorted(region), product):
            b.module_path = b.module_paths[index]
            sources = tuple(
                made[source] if source in region else _some(rewriting, source, chunk, count)
                for source in b[index].sources
            )
            made[index] = b.add(replace(b[index], ne=_shorter(b[index].ne, chunk, count), sources=sources,
                                        parameters=_parameters(b, index, chunk)))  # fmt: skip
        results.append(made[product])
    while len(results) > 1:  # in pairs, so that each is copied few times
        pairs = [results[i : i + 2] for i in range(0, len(results), 2)]
        results = [_joined(b, *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return results[0]


def _joined(b: Builder, first: int, second: int) -> int:
    rows = b[first].ne[1] + b[second].ne[1]
    return b.op("concat", first, second, ne=(b[first].ne[0], rows), parameters=(1,))


def _shorter(ne: Ne, chunk: range, count: int) -> Ne:
    axis = _axis(ne)
    a, b, c, d = (n // count * len(chunk) if i == axis else n for i, n in enumerate(ne))
    return a, b, c, d


def _parameters(b: Builder, index: int, chunk: range) -> tuple[int | float | str, ...]:
    """An operation's parameters for a chunk; only a view's tell of its size."""
    tensor = b[index]
    if tensor.name != "view":
        return tensor.parameters
    row, offset = int(tensor.parameters[4]), tensor.parameters[7]
    return (tensor.ne[0], len(chunk), 1, 1, row, row * len(chunk), row * len(chunk), offset)


def _some(rewriting: Rewriting, index: int, chunk: range, count: int) -> int:
    """What a chunk takes of a source: some tokens of it, or all of what is no token's own."""
    b, tensor = rewriting.b, rewriting.b[index]
    if _whole(b, index, count):
        return rewriting[index]
    if tensor.name == "view" and not b.is_packed(index):
        row, end = int(tensor.parameters[4]), int(tensor.parameters[4]) * len(chunk)
        offset = int(tensor.parameters[7]) + row * chunk.start
        parameters = (tensor.ne[0], len(chunk), 1, 1, row, end, end, offset)
        return b.op("view", *(rewriting[s] for s in tensor.sources), ne=(tensor.ne[0], len(chunk)),
                    type_=tensor.type, parameters=parameters)  # fmt: skip
    ne = _shorter(tensor.ne, chunk, count)
    strides = [math.prod(ne[:axis]) for axis in range(4)]
    return b.window(rewriting[index], list(zip(ne, strides, strict=True)), chunk.start * (b.numel(index) // count))
