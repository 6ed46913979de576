"""Sources of operations as a device needs them: in another type, or at another place. Each copy is a node of its own.

It needs room in the compute buffer for as long as its operation takes.
"""

from __future__ import annotations

from dataclasses import replace

from ...ggml_types import LAYOUTS
from ..ggml_binding import ggml
from .call import Call

_PRODUCTS = ("mul_mat", "conv_2d", "conv_3d", "flash_attn")
# ggml's Vulkan kernels of these take no offset besides that of the binding, and assert that it is all there is
# (ggml-vulkan.cpp, init_pushconst_tensor_offsets).
_FROM_A_BINDING = ("conv_2d", "conv_2d_dw", "conv_3d", "group_norm")
_BINDING = 256  # bytes: the most that Vulkan lets a device ask between offsets (minStorageBufferOffsetAlignment)


def f16_as_f32(call: Call) -> Call:
    """The operation with F16 factors of a product cast to F32, for a device that sums such in half precision."""
    if call.tensor.name not in _PRODUCTS:
        return call
    cast = [index for index, each in enumerate(call.declared[:3]) if each.type == "F16"]  # 3 is attention's mask
    declared, sources = list(call.declared), list(call.sources)
    for index in cast:
        declared[index] = replace(declared[index], type="F32")
        sources[index] = ggml.ggml_cast(call.context, sources[index], LAYOUTS["F32"].number)
    return call._replace(declared=declared, sources=sources)


def at_binding_offsets(call: Call) -> Call:
    """The operation with copies of sources that begin within other tensors where no binding can, for Vulkan."""
    if call.tensor.name not in _FROM_A_BINDING:
        return call
    sources = [
        ggml.ggml_cont(call.context, source) if source.contents.view_offs % _BINDING else source
        for source in call.sources
    ]
    return call._replace(sources=sources)
