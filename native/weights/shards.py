"""Models in several files: the names of the others from that of one."""

from __future__ import annotations

import re

# As llama.cpp's gguf-split, transformers and diffusers name them: the part's number from 1 on, and how many there are.
SHARD = re.compile(r"(.*-)(\d{5})(-of-)(\d{5})(\.(?:gguf|safetensors|sft))", re.IGNORECASE | re.DOTALL)


def shard_paths(path: str) -> list[str]:
    """The paths of all files of the set that a file is one of, in order; none where its name says that it is whole."""
    found = SHARD.fullmatch(path)
    if not found or not 1 <= int(found[2]) <= int(found[4]):
        return []
    stem, _, of, count, ending = found.groups()
    return [f"{stem}{number:05}{of}{count}{ending}" for number in range(1, int(count) + 1)]
