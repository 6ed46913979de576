"""The programs of diffusion models at their real size, in one piece: operations, copies, and the largest tensors."""

from __future__ import annotations

from collections import Counter

import pytest

from native.lower import lower
from native.program.ops import is_view
from native.program.tensor import nbytes
from tests.bench.lowering import IN_ONE_PIECE, traced
from tests.bench.real_models import MODELS, types

# nodes of stable-diffusion.cpp's graph, without and with views (tests/bench/peer_graphs.cpp); the most copies of ours
PEER = {"SD1.5": (1324, 2046, 140), "Z-Image": (1979, 3242, 48), "Wan 2.2 14B": (3315, 5259, 4)}


@pytest.mark.parametrize("name", PEER)
def test_operations(name: str) -> None:
    """At most a tenth more than the peer's."""
    module = MODELS[name].build().eval()
    rows = lower(traced(name, module), types(module), IN_ONE_PIECE).program.tensors
    nodes = [row for row in rows if row.kind == "op"]
    made = Counter(row.name for row in nodes if not is_view(row))
    operations, with_views, copies = PEER[name]
    assert made.total() <= 1.1 * operations
    assert len(nodes) <= 1.1 * with_views
    assert made["cont"] <= copies


def test_positions_take_little_memory() -> None:
    """The constants of LTX-2, whose positions are those of 4,992 tokens in 32 heads: 237 MiB when they were tables."""
    module = MODELS["LTX-2"].build().eval()
    program = lower(traced("LTX-2", module), types(module)).program
    assert sum(array.nbytes for array in program.constants.values()) < 4 << 20
    assert max(nbytes(row) for row in program.tensors if row.kind == "op") < 2 << 30
