"""One handler for each aten operation, in files by subject; importing the package registers them all."""

from . import attention, convolution, data_movement, elementwise, matmul, norms, padding, rope

__all__ = ["attention", "convolution", "data_movement", "elementwise", "matmul", "norms", "padding", "rope"]
