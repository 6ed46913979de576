"""The JSON bodies of requests, or why they cannot be used, in a sentence for who sent them."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

MAX_MESSAGE = 2000  # characters: what is quoted in a message may be of any length


async def json_object(request: web.Request) -> dict[str, Any] | str:
    """The object in a request's body, or what is wrong with it, without a full stop."""
    try:
        body = await request.json()
    except RecursionError:
        return "the body is not JSON that can be read: it is nested too deep"
    except (ValueError, LookupError) as error:  # LookupError: of an unknown charset
        return f"the body is not JSON: {error!s:.300}"
    return body if isinstance(body, dict) else "the body is not a JSON object"


def half_characters(body: Any) -> str | None:
    """The fault of JSON that holds surrogates without the other half; None where there is none.

    UTF-8 cannot hold them: they would end the log or message that quotes them, and the answer with it.
    """
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "the body holds half a character (a surrogate without the other), which no text has"
    return None


def bounded(message: str) -> str:
    """A message of at most MAX_MESSAGE characters."""
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."
