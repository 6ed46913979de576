"""Where a component computes and where its weights live, as the loaders' nodes say it."""

from __future__ import annotations

from dataclasses import dataclass

CPU = "CPU"  # the name and the type of ggml's device that is the processor
MIB = 1 << 20  # bytes
AUTO = "auto"
# Where weights live. DEVICE: in the memory of the device, on the CPU in the layout of its fastest kernels. RAM: in the
# file's pages, used in place by the CPU and streamed in block by block elsewhere. DISK: as DEVICE, but given back as
# soon as another component computes.
DEVICE, RAM, DISK = "device", "ram", "disk"
RESIDENCIES = (AUTO, DEVICE, RAM, DISK)
# What computes. TORCH: ComfyUI's own torch, on the CPU only. AUTO: whichever was measured to be faster.
GGML, TORCH = "ggml", "torch"
ENGINES = (AUTO, GGML, TORCH)


@dataclass(frozen=True)
class Placement:
    """A ggml device by name, and what is chosen for it."""

    device: str
    residency: str = AUTO  # AUTO: RAM on the CPU, elsewhere DEVICE where the weights fit and RAM where not
    budget: int = 0  # bytes of the device's memory for weights and compute buffer together; 0: what is free
    engine: str = GGML  # one of ENGINES


def as_placement(placement: Placement | str) -> Placement:
    """A placement; a device's name alone means all else as usual."""
    return Placement(placement) if isinstance(placement, str) else placement
