"""How many tokens ComfyUI's text encoders make of a text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from comfy.sd1_clip import SDTokenizer
from comfy.text_encoders.flux import T5XXLTokenizer

_TOKENIZERS = {"t5": T5XXLTokenizer, "clip": SDTokenizer}


@cache
def counter(name: str) -> Callable[[str], int]:
    """Counts the tokens of a text, those that mark its beginning and end with them. name: "t5" or "clip"."""
    tokenizer = _TOKENIZERS[name]()

    def count(text: str) -> int:
        *full, last = tokenizer.tokenize_with_weights(text)
        ids = [token for token, _ in last]
        return sum(map(len, full)) + ids.index(tokenizer.end_token) + 1  # what follows is padding

    return count
