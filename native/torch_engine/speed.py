"""Which arithmetic this processor is fast at."""

from __future__ import annotations

import time
from functools import cache

import torch

# Processors with instructions for BF16 are 2 to 16 times as fast with them, others several times as slow.
MARGIN = 1.3
_TOKENS, _SIZE, _ROUNDS = 128, 1024, 3


@cache
def half_is_faster() -> bool:
    """Whether this processor multiplies matrices faster in BF16 than in F32 by a clear margin; measured once."""
    x, weight = torch.ones(_TOKENS, _SIZE), torch.ones(_SIZE, _SIZE)
    return _seconds(x, weight) > MARGIN * _seconds(x.bfloat16(), weight.bfloat16())


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    taken = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        torch.mm(x, weight.T)
        taken.append(time.perf_counter() - start)
    return min(taken)
