"""A traced and lowered model: a flat list of ggml operations over a table of tensors."""

from .program import Output, Program
from .tensor import Tensor

__all__ = ["Output", "Program", "Tensor"]
