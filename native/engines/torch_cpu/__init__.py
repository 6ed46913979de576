"""The engine for the CPU that ComfyUI's process holds anyway: torch, with weights read from the file as it computes."""

from .model import TorchModel

__all__ = ["TorchModel"]
