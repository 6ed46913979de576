"""The bodies of chat requests, as OpenAI's protocol and llama.cpp's server have them: a question, or an idea to expand.

The model's name and `stream` are added where a request is sent (chat.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .chat import Endpoint
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
    image_parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    content = [{"type": "text", "text": text}, *image_parts] if image_parts else text
    messages = [{"role": "user", "content": content}]
    if system.strip():
        messages.insert(0, {"role": "system", "content": system})
    body = {
        "messages": messages,
        "seed": llama_seed(seed),
        "temperature": temperature,
        "max_tokens": max_tokens,
    }
    return body | {"cache_prompt": False, **_WITHOUT_REASONING} if endpoint.takes_grammar else body


def expansion_request(idea: Idea, seed: int, temperature: float, endpoint: Endpoint) -> dict[str, Any]:
    """The request for a prompt made of an idea; the server forces the answer into `expansion_schema`.

    seed: 64 bits. llama.cpp in our child gets the schema as a grammar: its chat templates feed their own last words to
    the grammars that it makes from JSON schemas, which then force nothing (llama.cpp pull request 29066).
    """
    max_characters = LENGTHS[idea.length].characters
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": instructions(idea)},
            {"role": "user", "content": idea.text},
        ],
        "seed": llama_seed(seed),
        "temperature": temperature,
    }
    if endpoint.takes_grammar:
        return body | {"grammar": expansion_grammar(max_characters), "cache_prompt": False, **_WITHOUT_REASONING}
    schema = {"name": "expansion", "strict": True, "schema": expansion_schema(max_characters)}
    max_tokens = max_characters + NEGATIVE_CHARACTERS + _REASONING_TOKENS
    return body | {"response_format": {"type": "json_schema", "json_schema": schema}, "max_tokens": max_tokens}


def llama_seed(seed: int) -> int:
    """Folds a 64-bit seed of ComfyUI into the 32 bits of llama.cpp's; avoids the value that means a random seed."""
    folded = (seed ^ seed >> 32) & 0xFFFFFFFF
    return folded - 1 if folded == _RANDOM_SEED else folded


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
