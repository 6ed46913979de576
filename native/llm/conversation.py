"""A plain question to a language model, with pictures where it can see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .chat import Endpoint
from .expansion import without_thinking


def request(
    system: str, text: str, pictures: Sequence[str], seed: int, temperature: float, tokens: int, endpoint: Endpoint
) -> dict[str, Any]:
    """The chat request; pictures: data URLs. tokens: the most that are written."""
    shown: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    content = [{"type": "text", "text": text}, *shown] if shown else text
    messages = [{"role": "user", "content": content}]
    if system.strip():
        messages.insert(0, {"role": "system", "content": system})
    asked = {"messages": messages, "seed": seed, "temperature": temperature, "max_tokens": tokens}
    return asked | {"cache_prompt": False, **without_thinking()} if endpoint.takes_grammar else asked
