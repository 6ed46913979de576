"""A weight file as a state dict for ComfyUI's conversion code, which remembers where in the file values come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from ...native.lower.strides import is_contiguous
from ...native.weights import Parameter, StoredTensor, WeightFile, read_parameter
from ...native.weights.runs import Run, apart, between, joined
from ...native.weights.scales import under
from ...native.weights.weight_set import Role, parameter

_aten = torch.ops.aten
# What ComfyUI's conversions see of each type of a file; F16 stands for blocks.
_DTYPES = {
    "F32": torch.float32, "BF16": torch.bfloat16, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_COPIES = (_aten.clone.default, _aten._to_copy.default)
PADDING = "padding"  # the attribute of a tensor of the state dict that has StoredTensor's
SHORTEST, MOST_RUNS = 64, 4096  # elements of a part, and runs of a parameter, that are worth reading apart
_ASKS = (_aten._local_scalar_dense.default, _aten.is_nonzero.default, _aten.equal.default)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A tensor as it was: a window of a storage of that origin then; None: of one without values."""

    origin: StoredTensor | _Made | _Written | None
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        return is_contiguous(self.shape, self.stride)


@dataclass(frozen=True, slots=True)
class _Made:
    """A storage that an operation has made."""

    function: Callable[..., Any]
    args: Any  # with _Seen for tensors
    kwargs: Any
    number: int  # among the operation's results


@dataclass(frozen=True, slots=True)
class _Written:
    """A storage of `size` elements after `source` was copied into a window of it."""

    before: StoredTensor | _Made | _Written | None
    size: int
    window: _Seen
    source: _Seen


@dataclass(frozen=True, slots=True)
class _Place:
    """Elements of a tensor of the file that follow each other, or parts of it at a distance."""

    tensor: StoredTensor
    start: int  # the first element
    count: int  # elements of a part
    parts: int = 1
    step: int = 0  # elements from the start of a part to that of the next

    def runs(self) -> Iterator[Run]:
        """Raises ValueError where the file has no whole blocks or scaled rows there."""
        if self.parts == 1:
            return between(self.tensor.runs, self.start, self.start + self.count)
        return iter([apart(self.tensor.runs, self.start, self.count, self.parts, self.step)])


class Recording(TorchDispatchMode):
    """While it is entered, operations on the tensors of `state_dict` are remembered and not computed.

    The tensors have no values. A value that is asked for is read from the file, and computed if need be.
    """

    def __init__(self, header: WeightFile) -> None:
        """Raises WeightFileError for scales of a form that is not read here."""
        super().__init__()
        self.header = header
        self._origins: dict[int, StoredTensor | _Made | _Written] = {}  # by storage
        self._alive: list[torch.UntypedStorage] = []  # the number of a freed one could be that of another
        self.state_dict: dict[str, Tensor] = {}
        for name, stored in under(header, "").items():
            run = stored.runs[0]
            dtype = torch.float16 if run.scaling else _DTYPES.get(run.stored, torch.float16)
            tensor = torch.empty(stored.shape, dtype=dtype, device="meta")
            if dtype == torch.uint8:  # text, such as a tokenizer's, which conversions read outside torch
                tensor = torch.from_numpy(np.fromfile(run.path, np.uint8, run.nbytes, offset=run.offset)).reshape(
                    stored.shape
                )
            if stored.padding:
                vars(tensor)[PADDING] = stored.padding
            self._note(tensor, stored)
            if tensor.is_meta and tensor.numel() == 1:  # a mark or a setting: torch gives no item of one without values
                tensor = self.values(tensor)
                self._note(tensor, stored)
            self.state_dict[name] = tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = (
            args if not kwargs and not any(type(x) in (list, tuple) for x in args) else tree_flatten((args, kwargs))[0]
        )
        if not any(isinstance(x, Tensor) and self.knows(x) for x in flat):
            return func(*args, **kwargs)
        seen_args, seen_kwargs = tree_map(lambda x: self._seen(x) if isinstance(x, Tensor) else x, (args, kwargs))
        if func in _ASKS:
            values = tree_map(lambda x: _values(self.header, x) if isinstance(x, _Seen) else x, seen_args)
            with _disable_current_modes():
                return func(*values, **kwargs)
        if func is _aten.copy_.default:
            target, source = args[0], args[1].expand(args[0].shape)
            size = target.untyped_storage().nbytes() // target.element_size()
            self._note(target, _Written(self._origin(target), size, self._seen(target), self._seen(source)))
            return target
        if func._schema.is_mutable:
            raise NotImplementedError(f"{func} changes a tensor of the file in place")
        # A copy on another device has no values either.
        made = (
            {**kwargs, "device": args[0].device} if func is _aten._to_copy.default and kwargs.get("device") else kwargs
        )
        results = func(*args, **made)
        for number, result in enumerate(results if isinstance(results, (tuple, list)) else (results,)):
            if isinstance(result, Tensor) and not self.knows(result):
                self._note(result, _Made(func, seen_args, seen_kwargs, number))
        return results

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor's values come from the file."""
        return self._origin(tensor) is not None

    def parameter(self, name: str, tensor: Tensor, role: Role = "") -> Parameter | None:
        """The place of a tensor in the file, as the parameter `name` of that role; None where it must be computed.

        Raises WeightFileError where the file's type is none of weights.
        """
        if not tensor.is_contiguous():
            return None
        shape = tuple(tensor.shape)
        places = [place for place in _places(self._seen(tensor)) if place]
        if sum(place.count * place.parts for place in places) < prod(shape):
            return None
        tensors = [place.tensor for place in places]
        try:
            runs = joined(run for place in places for run in place.runs())
        except ValueError:  # cut within blocks or scaled rows
            return None
        matrix = len(shape) == 2 or role == "experts"
        if any(run.scaling and (not matrix or run.scaling.columns != shape[-1]) for run in runs):
            return None
        return parameter(name, shape, runs, tensors, role)

    def values(self, tensor: Tensor) -> Tensor:
        """The values of a tensor: read from the file, and computed by what was done to them since."""
        return _values(self.header, self._seen(tensor))

    def _origin(self, tensor: Tensor) -> StoredTensor | _Made | _Written | None:
        return self._origins.get(tensor.untyped_storage()._cdata)

    def _note(self, tensor: Tensor, origin: StoredTensor | _Made | _Written) -> None:
        storage = tensor.untyped_storage()
        self._alive.append(storage)
        self._origins[storage._cdata] = origin

    def _seen(self, tensor: Tensor) -> _Seen:
        shape, stride = tuple(tensor.shape), tuple(tensor.stride())
        return _Seen(self._origin(tensor), shape, stride, int(tensor.storage_offset()), tensor.dtype)


def _places(seen: _Seen) -> Iterator[_Place | None]:
    """The places in the file that follow each other in a contiguous tensor; None where elements have none."""
    origin, start, end = seen.origin, seen.offset, seen.offset + seen.numel
    if isinstance(origin, StoredTensor):
        yield _Place(origin, start, end - start)
    elif isinstance(origin, _Made) and origin.function in _COPIES and origin.args[0].is_contiguous:
        yield from _places(_run(origin.args[0], start, end))
    elif isinstance(origin, _Made) and _is_ordered(origin) and seen.numel == origin.args[0].numel:
        yield from _in_order(origin.args[0])
    elif isinstance(origin, _Written) and origin.window.is_contiguous and origin.source.is_contiguous:
        first, last = origin.window.offset, origin.window.offset + origin.window.numel
        before = _Seen(origin.before, (origin.size,), (1,), 0, seen.dtype)
        if start < min(end, first):
            yield from _places(_run(before, start, min(end, first)))
        if max(start, first) < min(end, last):
            yield from _places(_run(origin.source, max(start, first) - first, min(end, last) - first))
        if max(start, last) < end:
            yield from _places(_run(before, max(start, last), end))
    elif isinstance(origin, _Made) and origin.function is _aten.cat.default and _by_rows(*origin.args):
        for part in origin.args[0]:
            if max(start, 0) < min(end, part.numel):
                yield from _places(_run(part, max(start, 0), min(end, part.numel)))
            start, end = start - part.numel, end - part.numel
    else:
        yield None


def _by_rows(parts: list[_Seen], dimension: int = 0) -> bool:
    """Whether parts were put together such that the elements of one follow those of another."""
    leading = all(length == 1 for part in parts for length in part.shape[:dimension])
    return dimension >= 0 and leading and all(part.is_contiguous for part in parts)


def _is_ordered(made: _Made) -> bool:
    """Whether a storage is a copy of a window in the order of its dimensions."""
    return made.function in _COPIES and made.kwargs.get("memory_format") is torch.contiguous_format


def _in_order(window: _Seen) -> Iterator[_Place | None]:
    """The places of a tensor of the file whose rows are seen in another order."""
    dims = [(size, stride) for size, stride in zip(window.shape, window.stride, strict=True) if size != 1]
    count = 1
    while dims and dims[-1][1] == count:
        count *= dims.pop()[0]
    parts, step = dims.pop() if dims else (1, 0)
    if not isinstance(window.origin, StoredTensor) or count < SHORTEST or prod(n for n, _ in dims) > MOST_RUNS:
        yield None
        return
    for places in product(*(range(0, size * stride, stride) for size, stride in dims)):
        yield _Place(window.origin, window.offset + sum(places), count, parts, step)


def _run(seen: _Seen, start: int, end: int) -> _Seen:
    """Elements of a contiguous tensor."""
    return _Seen(seen.origin, (end - start,), (1,), seen.offset + start, seen.dtype)


def _values(header: WeightFile, seen: _Seen) -> Tensor:
    """The values of a tensor as it was seen."""
    origin = seen.origin
    with _disable_current_modes():
        if origin is None:
            return torch.zeros(seen.shape, dtype=seen.dtype)
        if isinstance(origin, StoredTensor) and not seen.dtype.is_floating_point:
            whole = _integers(origin, seen.dtype)
        elif isinstance(origin, StoredTensor):
            whole = torch.from_numpy(read_parameter(parameter(origin.name, origin.shape, origin.runs, [origin])))
        elif isinstance(origin, _Written):
            before = _Seen(origin.before, (origin.size,), (1,), 0, seen.dtype)
            whole, window = _values(header, before).clone(), origin.window
            whole.as_strided(window.shape, window.stride, window.offset).copy_(_values(header, origin.source))
        else:
            args, kwargs = tree_map(
                lambda x: _values(header, x) if isinstance(x, _Seen) else x, (origin.args, origin.kwargs)
            )
            made = origin.function(*args, **(kwargs | ({"device": "cpu"} if kwargs.get("device") else {})))
            whole = made[origin.number] if isinstance(made, (tuple, list)) else made
        return whole.to(seen.dtype).as_strided(seen.shape, seen.stride, seen.offset)


def _integers(tensor: StoredTensor, dtype: torch.dtype) -> Tensor:
    """Counts and indices, which are no weights."""
    raw = b"".join(np.fromfile(run.path, np.uint8, run.nbytes, offset=run.offset).tobytes() for run in tensor.runs)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(tensor.shape)
