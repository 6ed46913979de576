"""The request that starts llama.cpp's child, one line of JSON on its stdin. Both processes import it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A model to serve and how to run it."""

    model: str  # path
    key: str  # that requests must carry
    device: str  # CPU, or a device as the child's llama.cpp names it
    layers: int  # on the device; -1: all
    context: int  # tokens
    threads: int  # 0: llama.cpp's default
    projector: str | None = None  # path
    template: bool = True  # the file's own chat template, not the built-in one that llama.cpp finds most like it
    estimate_only: bool = False  # llama.cpp logs what the model would allocate, to stderr
