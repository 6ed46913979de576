"""ComfyUI's seeds as llama.cpp takes them."""

from __future__ import annotations

_RANDOM = 0xFFFFFFFF  # llama.cpp takes another seed every time for this one (LLAMA_DEFAULT_SEED)


def seed_of(seed: int) -> int:
    """A 64-bit seed in 32 bits; those that fit stay as they are, but for the one that means a random seed."""
    folded = (seed ^ seed >> 32) & 0xFFFFFFFF
    return folded - 1 if folded == _RANDOM else folded
