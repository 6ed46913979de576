"""A weight file as a state dict for ComfyUI's conversion code, which remembers where in the file values come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from ...native.ggml_types import LAYOUTS, tensor_bytes
from ...native.weights import Parameter, WeightFile, read_parameter
from ...native.weights.names import ScaledTensor, under
from ...native.weights.weight_set import load_type, parameter_of

_aten = torch.ops.aten
# What ComfyUI's conversions see of each type of a file; F16 stands for blocks.
_DTYPES = {
    "F32": torch.float32, "BF16": torch.bfloat16, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_COPIES = (_aten.clone.default, _aten._to_copy.default, _aten.copy_.default)
_ASKS = (_aten._local_scalar_dense.default, _aten.is_nonzero.default, _aten.equal.default)


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor that an operation has made of others."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    number: int  # among the operation's results


class Recording(TorchDispatchMode):
    """While it is entered, operations on the tensors of `state_dict` are remembered and not computed.

    The tensors have no values. A value that is asked for is read from the file, and computed if need be.
    """

    def __init__(self, header: WeightFile) -> None:
        """Raises WeightFileError for scales of a form that is not read here."""
        super().__init__()
        self.header = header
        self._origins: dict[int, ScaledTensor | _Made] = {}  # by storage
        self._alive: list[torch.UntypedStorage] = []  # the number of a freed one could be that of another
        self.state_dict: dict[str, Tensor] = {}
        for name, stored in under(header, "").items():
            dtype = _DTYPES.get(stored.tensor.stored, torch.float16)
            self.state_dict[name] = tensor = torch.empty(stored.tensor.shape, dtype=dtype, device="meta")
            self._note(tensor, stored)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(self._origin(x) for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)):
            return func(*args, **kwargs)
        if func in _ASKS:
            args, kwargs = tree_map(lambda x: self.values(x) if isinstance(x, Tensor) else x, (args, kwargs))
            with _disable_current_modes():
                return func(*args, **kwargs)
        if func is _aten.copy_.default:
            target, source = args[:2]
            if target.shape != source.shape or not target.is_contiguous() or target.storage_offset():
                raise NotImplementedError(f"a part of a tensor is written, {list(source.shape)}")
            self._note(target, _Made(func, args, kwargs, 0))
            return target
        if func._schema.is_mutable:
            raise NotImplementedError(f"{func} changes a tensor of the file in place")
        results = func(*args, **kwargs)
        for number, result in enumerate(results if isinstance(results, (tuple, list)) else (results,)):
            if isinstance(result, Tensor) and not self._origin(result):
                self._note(result, _Made(func, args, kwargs, number))
        return results

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor's values come from the file."""
        return self._origin(tensor) is not None

    def parameter(self, name: str, tensor: Tensor) -> Parameter | None:
        """What the file has of a tensor, as the parameter `name`; None where it must be computed from it.

        Raises WeightFileError where the file's type is none of weights.
        """
        origin = self._origin(tensor)
        while isinstance(origin, _Made) and origin.function in _COPIES and tensor.is_contiguous():
            source = origin.args[1 if origin.function is _aten.copy_.default else 0]
            if not source.is_contiguous():
                return None
            offset = source.storage_offset() + tensor.storage_offset()
            tensor = source.as_strided(tensor.shape, tensor.stride(), offset)
            origin = self._origin(tensor)
        if not isinstance(origin, ScaledTensor) or not tensor.is_contiguous():
            return None
        whole = parameter_of(self.header, origin.tensor, name, origin.scale)
        block, nbytes = LAYOUTS[whole.stored].block, LAYOUTS[whole.stored].nbytes
        shape, start = tuple(tensor.shape), tensor.storage_offset()
        if tensor.numel() % block or start % block:
            return None
        return Parameter(
            name, load_type(whole.stored, shape, whole.scale), shape, whole.path, whole.stored,
            whole.offset + start // block * nbytes, tensor_bytes(whole.stored, (tensor.numel(),)), whole.scale,
        )  # fmt: skip

    def values(self, tensor: Tensor) -> Tensor:
        """The values of a tensor: read from the file, and computed by what was done to them since."""
        origin = self._origin(tensor)
        if origin is None:
            return tensor
        if isinstance(origin, ScaledTensor):
            read = read_parameter(parameter_of(self.header, origin.tensor, origin.tensor.name, origin.scale))
            whole = torch.from_numpy(read).to(tensor.dtype)
        else:
            function = _aten.clone.default if origin.function is _aten.copy_.default else origin.function
            args = origin.args[1:2] if origin.function is _aten.copy_.default else origin.args
            args, kwargs = tree_map(lambda x: self.values(x) if isinstance(x, Tensor) else x, (args, origin.kwargs))
            with _disable_current_modes():
                made = function(*args, **(kwargs | ({"device": "cpu"} if kwargs.get("device") else {})))
            whole = made[origin.number] if isinstance(made, (tuple, list)) else made
            whole = whole.to(tensor.dtype)
        with _disable_current_modes():
            return torch.as_strided(whole.contiguous(), tensor.shape, tensor.stride(), tensor.storage_offset())

    def _origin(self, tensor: Tensor) -> ScaledTensor | _Made | None:
        return self._origins.get(tensor.untyped_storage()._cdata)

    def _note(self, tensor: Tensor, origin: ScaledTensor | _Made) -> None:
        storage = tensor.untyped_storage()
        self._alive.append(storage)
        self._origins[storage._cdata] = origin
