"""Runs per-token subgraphs (MLPs) in chunks of tokens to lower the peak of activation memory.

In a feed-forward the product that widens, the activation and the product that narrows are computed for a chunk of
tokens, then for the next, and the narrow results are concatenated. The arithmetic is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...program.builder import Builder
from ...program.ops import OPERATIONS, PerToken
from ...program.tensor import Ne, Value
from .rewriter import Rewriting, needed, users

_TILE = 64  # tokens; the matrix kernels of a GPU work on whole tiles
_MOST_CHUNKS = 64  # the wide results of one are then an eighth of the narrow ones; more only make programs long
_F32_BYTES = 4


def in_chunks(b: Builder, outputs: Sequence[int], chunk_threshold_bytes: int, tokens: int) -> list[int]:
    """The outputs on a table in which the subgraphs of narrowing products run in chunks of about `tokens`.

    chunk_threshold_bytes: the least size of the activation that such a product reduces.
    """
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
    """The operations that only a narrowing product needs, as far as they are wider than it and keep tokens apart."""
    count = b[product].ne[1]
    first = b[product].sources[1]
    if count < 2 * tokens or not _apart(b, product, count) or b.nbytes(first) < chunk_threshold_bytes:
        return set()
    region: set[int] = set()
    reached = [first]
    while reached:
        index = max(reached)  # after all its users
        reached.remove(index)
        alone = all(user in region or user == product for user in using[index])
        if alone and b.numel(index) > b.numel(product) and _apart(b, index, count):
            region.add(index)
            reached += [source for source in b[index].sources if source not in reached]
    inputs = {source for index in (*region, product) for source in b[index].sources} - region
    cut = [source for source in inputs if not _is_shared(b, source, count) and not _cuttable(b, source, count)]
    widens = any(b[index].name == "mul_mat" for index in region)
    return region if widens and not cut else set()


def _axis(ne: Ne) -> int:
    """The dimension of the tokens: the slowest that has more than one element."""
    return max((axis for axis in range(4) if ne[axis] != 1), default=0)


def _by_token(ne: Ne, count: int) -> bool:
    return ne[_axis(ne)] % count == 0


def _is_shared(b: Builder, index: int, count: int) -> bool:
    """Whether a source is the same for every token: a weight or a vector."""
    return b[b.root(index)].kind == "weight" or not _by_token(b[index].ne, count)


def _cuttable(b: Builder, index: int, count: int) -> bool:
    """Whether some tokens of a source can be seen without a copy."""
    ne = b[index].ne
    if b.view(index):
        return ne[1] == count and ne[2:] == (1, 1)
    return b[index].name != "permute" and _by_token(ne, count)


def _apart(b: Builder, index: int, count: int) -> bool:
    """Whether an operation computes every token of its result from the same token of its sources, and from weights."""
    tensor = b[index]
    if tensor.kind != "op" or not _by_token(tensor.ne, count):
        return False
    matrix = tensor.ne[1] == count and tensor.ne[2:] == (1, 1)
    first, *others = (b[source].ne for source in tensor.sources)
    per_token = OPERATIONS[tensor.name].per_token
    if per_token is PerToken.ELEMENTS:
        if not others:
            return _by_token(first, count)
        return first == tensor.ne and all(ne == first or (matrix and ne[1:] == (1, 1, 1)) for ne in others)
    if per_token is PerToken.ROWS and matrix:
        if tensor.name == "mul_mat":
            return b[b.root(tensor.sources[0])].kind == "weight"
        return first[1:] == tensor.ne[1:] and (not b.view(index) or _is_columns(b, index))
    return False


def _is_columns(b: Builder, index: int) -> bool:
    """Whether a view shows columns of every row of its source."""
    view = b.view(index)
    row = _F32_BYTES * b[b[index].sources[0]].ne[0]
    return view is not None and view.nb1 == row and view.offset < row


def _chunked(rewriting: Rewriting, product: int, region: set[int], tokens: int) -> int:
    """The product's result, computed in chunks that are then concatenated."""
    b = rewriting.b
    count = b[product].ne[1]
    step = -(-count // min(count // tokens, _MOST_CHUNKS) // _TILE) * _TILE
    results = []
    for start in range(0, count, step):
        chunk = range(start, min(start + step, count))
        made: dict[int, int] = {}
        for index in (*sorted(region), product):
            b.module_path = b.module_paths[index]
            sources = [
                made[source] if source in region else _some(rewriting, source, chunk, count)
                for source in b[index].sources
            ]
            ne = _shorter(b[index].ne, chunk, count)
            made[index] = b.again(index, sources, ne=ne, parameters=_parameters(b, index, chunk))
        results.append(made[product])
    while len(results) > 1:  # in pairs, so that each is copied few times
        pairs = [results[i : i + 2] for i in range(0, len(results), 2)]
        results = [b.op("concat", *pair, dim=1) if len(pair) == 2 else pair[0] for pair in pairs]
    return results[0]


def _shorter(ne: Ne, chunk: range, count: int) -> Ne:
    axis = _axis(ne)
    a, b, c, d = (n // count * len(chunk) if i == axis else n for i, n in enumerate(ne))
    return a, b, c, d


def _parameters(b: Builder, index: int, chunk: range, start: int = 0) -> tuple[Value, ...]:
    """An operation's parameters for a chunk; those of a view have its size, and its offset where it has a start."""
    view = b.view(index)
    if view is None:
        return b[index].parameters
    size = view.nb1 * len(chunk)
    return view._replace(ne1=len(chunk), ne2=1, ne3=1, nb2=size, nb3=size, offset=view.offset + view.nb1 * start)


def _some(rewriting: Rewriting, index: int, chunk: range, count: int) -> int:
    """A source as a chunk takes it: the tokens of the chunk, or all of it where it is shared by all tokens."""
    b, tensor = rewriting.b, rewriting.b[index]
    if _is_shared(b, index, count):
        return rewriting[index]
    if b.view(index) and not b.is_contiguous(index):
        sources = [rewriting[source] for source in tensor.sources]
        return b.again(index, sources, parameters=_parameters(b, index, chunk, chunk.start))
    ne = _shorter(tensor.ne, chunk, count)
    dims = [(n, math.prod(ne[:axis])) for axis, n in enumerate(ne)]
    return b.window(rewriting[index], dims[::-1], chunk.start * (b.numel(index) // count))
