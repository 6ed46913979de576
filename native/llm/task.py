"""What the child is asked to serve, as it goes through its stdin."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A model file and where it computes; `key` is what requests must bring.

    device: CPU, or a device as the child's llama.cpp calls it. layers: on the device, -1 for all. context: tokens.
    threads: 0 for llama.cpp's own choice. template: whether the model's own chat template is used, not one that
    llama.cpp takes for like it. measured: only what it would take is worked out, and said on stderr.
    """

    model: str
    key: str
    device: str
    layers: int
    context: int
    threads: int
    projector: str | None = None
    template: bool = True
    measured: bool = False
