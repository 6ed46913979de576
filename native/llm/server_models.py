"""The models that a server lists, and which of them chats."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .exchange import Malformed
from .stream import readable

_MAX_MODELS, _MAX_NAME = 5000, 300  # names that are read, and characters of each
# Names of models for other purposes: embeddings, reranking, speech, pictures, moderation.
_OTHER_PURPOSE = re.compile(
    r"embed|rerank|(^|[^a-z])(bge|gte|e5|minilm|bert|nomic-bert|arctic-embed|colbert|splade|sentence-t5|labse)([^a-z]|$)"
    r"|whisper|(^|[^a-z])(tts|stt|asr|clip|siglip|t5|umt5|mmproj)([^a-z]|$)|transcri|moderation|dall-e|gpt-image"
    r"|stable-diffusion|realtime|(^|[^a-z])(babbage|davinci)-00",
    re.IGNORECASE,
)
_OTHER_TYPES = {"embedding", "embeddings", "rerank", "reranker", "image", "audio", "moderation", "tts", "stt"}


@dataclass(frozen=True)
class ListedModel:
    """A model of a server's list."""

    name: str
    chats: bool  # as far as its entry and name tell


def models_in(body: str) -> list[ListedModel]:
    """The models in the reply to GET /models. Raises Malformed."""
    try:
        fields = json.loads(body)
        entries = fields if isinstance(fields, list) else fields["data"]  # some leave the object around it out
        return [_model(entry) for entry in (entries or [])[:_MAX_MODELS]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed(f"sent {body[:80]!r}, not a list of models. Its address often ends in /v1") from error


def chat_model(models: list[ListedModel]) -> str | None:
    """The name of the first model that chats; None where none does."""
    return next((model.name for model in models if model.chats), None)


def _model(entry: dict[str, Any]) -> ListedModel:
    if not isinstance(entry["id"], str):
        raise TypeError("a model's name is a text")
    name = readable(entry["id"])[:_MAX_NAME]
    return ListedModel(name, _said_to_chat(entry) and not _OTHER_PURPOSE.search(name))


def _said_to_chat(entry: dict[str, Any]) -> bool:
    """Whether an entry says nothing against it: its type (LM Studio, Together), its capabilities (Mistral, llama.cpp),
    or what it puts out (OpenRouter)."""
    kinds = {str(entry.get(field)).lower() for field in ("type", "task", "mode", "model_type")}
    if kinds & _OTHER_TYPES:
        return False
    capabilities = entry.get("capabilities")
    if isinstance(capabilities, dict) and capabilities.get("completion_chat") is False:
        return False
    if isinstance(capabilities, list) and capabilities and not {"completion", "chat"} & set(map(str, capabilities)):
        return not any("embed" in str(each) for each in capabilities)
    architecture = entry.get("architecture")
    puts_out = architecture.get("output_modalities") if isinstance(architecture, dict) else None
    return not isinstance(puts_out, list) or "text" in puts_out
