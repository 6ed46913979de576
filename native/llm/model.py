"""The description of a language model: a GGUF file on this machine, or an OpenAI-compatible server."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..placement import CPU
from ..weights.header import read_header
from ..weights.weight_file import WeightFile, WeightFileError
from .keys import KEY_PREFIX, key_for, shown_address

ALL_LAYERS = -1
_MAX_URL = 2048  # bytes
_HOST = re.compile(r"[^\x00-\x20\x7f\s\\<>\"^`{|}%]+")
PROJECTOR = "clip"  # general.architecture of vision and audio projectors
# Architectures that llama.cpp loads and whose models write no text in a chat, with what they are.
_NOT_WRITERS = {
    **dict.fromkeys(("t5", "t5encoder", "umt5"), "a T5 model"),
    **dict.fromkeys(
        (
            "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3",
            "eurobert", "gemma-embedding", "llama-embed",
        ),
        "an embedding model",
    ),
    "wavtokenizer-dec": "a decoder of speech",
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), "a language model that writes by diffusion"),
}  # fmt: skip
_POOLING = (1, 2, 3, 4)  # of embedding and reranking models: mean, CLS, last, rank


class LanguageModelError(RuntimeError):
    """The model could not be started, or gave no usable answer. The message is for the user."""

    def __init__(self, message: str, unquoted: str = "") -> None:
        """unquoted: the message without what a server sent, for those who may not read that; "" where it has none."""
        super().__init__(message)
        self.unquoted = unquoted or message


class ConnectionLost(LanguageModelError):
    """The server cannot be reached, or closed the connection before the end of its answer."""


@dataclass(frozen=True)
class LocalModel:
    """A GGUF file and how llama.cpp runs it; equal ones share a process."""

    path: str
    size: int  # bytes; with mtime_ns, so that a changed file is another model
    mtime_ns: int
    device: str = CPU
    layers: int = ALL_LAYERS  # on the device, counted from the last layer
    context: int = 4096  # tokens
    threads: int = 0  # 0: one on each core
    projector: str | None = None  # path of the vision projector
    kept: bool = False  # stays in memory when another model computes

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return os.path.basename(self.path)


@dataclass(frozen=True)
class RemoteServer:
    """An OpenAI-compatible server and one of its models."""

    url: str  # up to and with /v1
    model: str = ""  # as the server names it; "": the first for chats that it lists
    key_variable: str = ""  # the environment variable that holds its key; "": none
    read_timeout: float = 120.0  # seconds without any of the answer
    release: bool = False  # the server is asked to free its memory when another model is about to compute

    def key(self) -> str:
        """The server's key; "" where it needs none. Raises LanguageModelError where there is none that it may have."""
        key, problem = key_for(self.key_variable, self.url)
        if problem:
            raise LanguageModelError(problem)
        return key


LanguageModel = LocalModel | RemoteServer


def local_model(
    path: str, device: str, layers: int, context: int, threads: int, projector: str | None, kept: bool
) -> LocalModel:
    """The model of a GGUF file; its context is at most what it was trained for. Raises WeightFileError."""
    header = read_header(path)
    trained = trained_context(header)
    _check_architecture(header)
    if projector is not None:
        _check_projector(read_header(projector))
    return LocalModel(
        header.path, header.size, header.mtime_ns, device, layers if device != CPU else 0,
        min(context, trained or context), threads, projector, kept,
    )  # fmt: skip


def _check_architecture(header: WeightFile) -> None:
    """Raises WeightFileError for a file whose model does not write text, as its header tells."""
    path, architecture = header.path, header.architecture
    if header.format == "gguf" and architecture == PROJECTOR:
        raise WeightFileError(
            f"{path} is a projector (architecture {PROJECTOR}), the eyes of a language model. Choose it as projector, "
            "and the language model that it belongs to as model_name."
        )
    embeds = header.metadata.get(f"{architecture}.pooling_type") in _POOLING
    causal = header.metadata.get(f"{architecture}.attention.causal", True)
    if header.format == "gguf" and (architecture in _NOT_WRITERS or embeds or causal is False):
        kind = _NOT_WRITERS.get(str(architecture), "an embedding model")
        raise WeightFileError(
            f"{path} is {kind} (architecture {architecture}), which writes no text here. Choose an instruction-tuned "
            "language model."
        )
    needed = f"{architecture}.block_count"
    if header.format != "gguf" or needed not in header.metadata:
        raise WeightFileError(f"{path} is not a language model in GGUF format: it lacks {needed}. Choose another file.")


def _check_projector(header: WeightFile) -> None:
    if header.format != "gguf" or header.architecture != PROJECTOR:
        raise WeightFileError(
            f"{header.path} is not a projector: its architecture is {header.architecture}, not {PROJECTOR}. Choose the "
            "file with mmproj in its name that belongs to the language model, or none."
        )


def trained_context(header: WeightFile) -> int | None:
    """The context in tokens that a model was trained for; None where its file does not say."""
    length = header.metadata.get(f"{header.architecture}.context_length")
    return length if isinstance(length, int) and length > 0 else None


def check_url(url: str) -> str | None:
    """The problem with a server's address, for the user; None for a usable one."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        usable = parts.scheme in ("http", "https") and (parts.port is None or parts.port > 0)
        usable = usable and len(url.encode()) <= _MAX_URL and _HOST.fullmatch(host) is not None
        host.encode("idna")  # as the system's name lookup does
    except ValueError:  # also of an encoding
        usable = False
    if not usable:
        return f"{shown_address(url)!r} is not a server address. One looks like http://127.0.0.1:8080/v1."
    if parts.username or parts.password:
        return (
            f"The address {shown_address(url)} has a name or password in it, which a workflow would carry to others. "
            f"Remove it, and put the key into an environment variable {KEY_PREFIX}KEY."
        )
    return None
