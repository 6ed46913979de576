"""A custom node of a test's ComfyUI that notes what torch multiplies in its process, on whichever thread.

GET /test/products says where in the code that was since it was last asked, and how often.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from server import PromptServer

# Of aten: what linear, matmul, einsum, conv1d to conv3d and attention come down to.
PRODUCTS = (
    "mm", "addmm", "_addmm_activation", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot",
    "_int_mm", "_scaled_mm", "_weight_int8pack_mm", "_weight_int4pack_mm_for_cpu",
    "convolution", "_convolution", "mkldnn_rnn_layer", "_scaled_dot_product_flash_attention_for_cpu",
)  # fmt: skip
# Beside torch's own: code that every layer goes through, and says nothing about whose it is.
_LAYERS = ("comfy/ops.py", "comfy/ldm/modules/attention.py")
_TORCH = str(Path(torch.__file__).parent)
_places: Counter[str] = Counter()


def _place() -> str:
    """The file and the function whose product is being computed."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith(_TORCH) and not Path(file).as_posix().endswith(_LAYERS):
            break
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name} {frame.f_code.co_name}"


def _noting(operation: str) -> Callable[..., Any]:
    """Torch's kernel of an operation for the CPU, which notes where it is called."""
    kernel = torch.library.get_kernel(operation, "CPU")

    def compute(keys: Any, *args: Any, **kwargs: Any) -> Any:
        _places[_place()] += 1
        return kernel.call_boxed(keys, *args, **kwargs)

    return compute


def _follow() -> torch.library.Library:
    """Put the noting kernels in the place of torch's: tensors without values, as in a trace, have others."""
    library = torch.library.Library("aten", "IMPL")
    for name in PRODUCTS:
        for overload in getattr(torch.ops.aten, name).overloads():
            form = name if overload == "default" else f"{name}.{overload}"
            if torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"aten::{form}", "CPU"):
                library.impl(form, _noting(f"aten::{form}"), "CPU", with_keyset=True, allow_override=True)
    return library


@PromptServer.instance.routes.get("/test/products")
async def _products(_: web.Request) -> web.Response:
    said = dict(_places)
    _places.clear()
    return web.json_response(said)


_library = _follow()
NODE_CLASS_MAPPINGS: dict[str, type] = {}
