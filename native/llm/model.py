"""Which language model answers: a GGUF file on this machine, or a server."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..placement import CPU
from ..weights.header import read_header
from ..weights.weight_file import WeightFile, WeightFileError
from .errors import LanguageModelError

ALL_LAYERS = -1
KEY_PREFIX = "GGML_LLM_"  # a workflow from elsewhere must not be able to send other secrets anywhere
_VARIABLE = re.compile(KEY_PREFIX + r"[A-Z0-9_]+")
_KEY = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class LocalModel:
    """A GGUF file and how llama.cpp runs it; equal ones share a process.

    size, mtime_ns: the file's, so that another file of that name is another model.
    layers: that compute on the device, from the last one on; ALL_LAYERS for all. context: tokens.
    threads: 0 for one on each core. kept: whether it stays when another model computes.
    """

    path: str
    size: int
    mtime_ns: int
    device: str = CPU
    layers: int = ALL_LAYERS
    context: int = 4096
    threads: int = 0
    projector: str | None = None
    kept: bool = False

    @property
    def name(self) -> str:
        """What a person calls it."""
        return os.path.basename(self.path)


@dataclass(frozen=True)
class RemoteServer:
    """An OpenAI-compatible server; key_variable names the environment variable with its key, or is empty.

    model: as the server names it; empty for the first it lists. patience: seconds without a word.
    """

    url: str
    model: str = ""
    key_variable: str = ""
    patience: float = 120.0

    def key(self) -> str:
        """The key, or an empty text where none is asked for. Raises LanguageModelError when the variable has none."""
        wrong = check_key_variable(self.key_variable)
        if wrong:
            raise LanguageModelError(wrong)
        return os.environ[self.key_variable].strip() if self.key_variable else ""


LanguageModel = LocalModel | RemoteServer


def local_model(
    path: str, device: str, layers: int, context: int, threads: int, projector: str | None, kept: bool
) -> LocalModel:
    """The model of a file, its context no longer than it was trained for. Raises WeightFileError."""
    header = read_header(path)
    longest = trained_context(header)
    needed = f"{header.architecture}.block_count"
    if header.format != "gguf" or needed not in header.metadata:
        raise WeightFileError(f"{path} is no language model in GGUF format: it lacks {needed}. Choose another file.")
    if projector is not None:
        read_header(projector)
    return LocalModel(
        header.path, header.size, header.mtime_ns, device, layers if device != CPU else 0,
        min(context, longest or context), threads, projector, kept,
    )  # fmt: skip


def trained_context(header: WeightFile) -> int | None:
    """The tokens that a model was trained to see at once, where its file says so."""
    length = header.metadata.get(f"{header.architecture}.context_length")
    return length if isinstance(length, int) and length > 0 else None


def check_url(url: str) -> str | None:
    """What is wrong with the address of a server, if anything."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        return f"{_without_login(url)!r} is no address of a server. It looks like http://127.0.0.1:8080/v1."
    if parts.username or parts.password:
        return (
            f"The address {_without_login(url)} has a name or password in it, which a workflow would carry to others. "
            f"Remove it, and put the key into an environment variable {KEY_PREFIX}KEY."
        )
    return None


def check_key_variable(variable: str) -> str | None:
    """What is wrong with the name of the variable that holds a server's key, if anything; never says what it is."""
    if not variable:
        return None
    if not _VARIABLE.fullmatch(variable):
        return (
            f"key_variable takes the name of an environment variable, not the key itself, and only names that begin "
            f"with {KEY_PREFIX} (capital letters, digits, _). Set {KEY_PREFIX}KEY to the key where ComfyUI is "
            f"started, and write {KEY_PREFIX}KEY here."
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        return f"The environment variable {variable} is not set. Set it to the server's key and start ComfyUI again."
    if not _KEY.fullmatch(key):
        return f"The environment variable {variable} holds characters that no key has, such as spaces. Set it again."
    return None


def _without_login(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)
