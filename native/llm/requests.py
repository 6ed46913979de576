"""The bodies of chat requests, as OpenAI's protocol and llama.cpp's server have them: a question, or an idea to expand.

The model's name and `stream` are added where a request is sent (chat.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from .exchange import Endpoint
from .styles import LENGTHS, NEGATIVE_CHARACTERS, Idea, instructions

_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp draws another seed every time for this one (LLAMA_DEFAULT_SEED)
_REASONING_TOKENS = 1024  # allowed beside the answer, for models that reason in it
_WITHOUT_REASONING = {"chat_template_kwargs": {"enable_thinking": False}}  # of llama.cpp's server


def conversation_request(
    system: str, text: str, images: Sequence[str], seed: int, temperature: float, max_tokens: int, endpoint: Endpoint
) -> dict[str, Any]:
    """The request for an answer to a question.

    system: may be empty. images: data URLs. seed: 64 bits. max_tokens: of the answer.
    """
    messages = [{"role": "user", "content": _content(text, images)}]
    if system.strip():
        messages.insert(0, {"role": "system", "content": system})
    body = {
        "messages": messages,
        "seed": llama_seed(seed),
        "temperature": temperature,
        "max_tokens": max_tokens,
    }
    return body | {"cache_prompt": False, **_WITHOUT_REASONING} if endpoint.takes_grammar else body


def _content(text: str, images: Sequence[str]) -> str | list[dict[str, Any]]:
    """The content of a message. images: data URLs."""
    image_parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [{"type": "text", "text": text}, *image_parts] if image_parts else text


def expansion_request(
    idea: Idea, seed: int, temperature: float, endpoint: Endpoint, images: Sequence[str] = ()
) -> dict[str, Any]:
    """The request for a prompt made of an idea; the server forces the answer into `expansion_schema`.

    seed: 64 bits. images: data URLs of pictures that the idea is about. llama.cpp in our child gets the schema as a
    grammar: its chat templates feed their own last words to the grammars that it makes from JSON schemas, which then
    force nothing (llama.cpp pull request 29066).
    """
    max_characters = LENGTHS[idea.length].characters
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": instructions(idea, len(images))},
            {"role": "user", "content": _content(idea.text, images)},
        ],
        "seed": llama_seed(seed),
        "temperature": temperature,
    }
    if endpoint.takes_grammar:
        return body | {"grammar": expansion_grammar(max_characters), "cache_prompt": False, **_WITHOUT_REASONING}
    schema = {"name": "expansion", "strict": True, "schema": expansion_schema(max_characters)}
    max_tokens = expansion_tokens(idea.length)
    return body | {"response_format": {"type": "json_schema", "json_schema": schema}, "max_tokens": max_tokens}


def expansion_tokens(length: str) -> int:
    """Tokens that a server's answer with a prompt of a length may have, thinking included."""
    return LENGTHS[length].characters + NEGATIVE_CHARACTERS + _REASONING_TOKENS


def llama_seed(seed: int) -> int:
    """A 64-bit seed of ComfyUI in the 32 bits of llama.cpp's; avoids the value that means a random seed.

    Seeds that fit stay. Others are hashed: no pattern of bits, such as two equal halves, makes many seeds one.
    """
    if seed < _RANDOM_SEED:
        return seed
    hashed = int.from_bytes(blake2b(seed.to_bytes(8, "little"), digest_size=8).digest(), "little")
    return hashed % _RANDOM_SEED


def expansion_schema(max_characters: int) -> dict[str, Any]:
    """The JSON schema of an expansion whose prompt has at most `max_characters`."""
    lengths = {"prompt": {"minLength": 1, "maxLength": max_characters}, "negative": {"maxLength": NEGATIVE_CHARACTERS}}
    return {
        "type": "object",
        "properties": {name: {"type": "string", **limits} for name, limits in lengths.items()},
        "required": list(lengths),
        "additionalProperties": False,
    }


def expansion_grammar(max_characters: int) -> str:
    """`expansion_schema` in llama.cpp's GBNF, on one line, with no escapes in its strings but two."""
    return (
        rf'root ::= "{{\"prompt\": \"" character{{1,{max_characters}}} "\", \"negative\": \"" '
        rf'character{{0,{NEGATIVE_CHARACTERS}}} "\"}}"'
        "\n"
        r'character ::= [^"\\\x00-\x1F\x7F-\x9F] | "\\" ["\\]'
    )
