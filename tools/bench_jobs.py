"""The rows of `bench`, each a figure beside a peer's, and the jobs: the processes that measure."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
PEER, TORCH = "stable-diffusion.cpp", "torch in ComfyUI"


@dataclass(frozen=True)
class Job:
    """One measuring process: a module of tests/bench, its task, its model files by option, and further options."""

    module: str
    task: str
    files: tuple[tuple[str, str], ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A figure of this project beside the same figure of a peer, the better one where it has several ways."""

    name: str
    figure: str  # "seconds", "encode", "compute_buffer" or "peak_memory"
    ours: Job
    peer: str
    peers: tuple[Job, ...]
    conditions: str
    usual: bool = True  # whether it is measured when no name is given

    @property
    def unit(self) -> str:
        return "MiB" if self.figure in ("compute_buffer", "peak_memory") else "s"
