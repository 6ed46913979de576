"""The walk over a trace: what is constant, what the host computes per call, what becomes operations of a program."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch

from ..program import Output, Program
from ..program.builder import Builder
from ..trace.graph import Trace, TracedOp, Window, windows_in
from .host import HostPart, HostStorages, as_array, with_windows
from .passes.chunk_tokens import in_chunks
from .passes.fuse import fuse
from .passes.split_columns import split_columns
from .storage_content import StorageLayout
from .strides import Layout, Operand, Shape, collapse, contiguous, contiguous_stride, is_dense, rows_packed


class LowerError(NotImplementedError):
    """An operation of a model that no handler covers."""


@dataclass(frozen=True, slots=True)
class LowerOptions:
    """Choices that change the program.

    flash: use flash attention where the scores of plain attention would take more than `flash_bytes`.
    kv_type: type of K and V in flash attention.
    activation_scale: activations are divided by this before every matrix multiplication and the result is multiplied
    by it, for models whose activations pass 65504 on devices that hold them as F16 while they multiply.
    wide_bytes: activations from this size on are computed in parts where that makes the compute buffer smaller.
    chunk_tokens: the least tokens of a part; matrix kernels are as fast with so many as with more.
    """

    flash: bool = True
    flash_bytes: int = 32 << 20
    kv_type: str = "F16"
    activation_scale: float = 1.0
    chunk_threshold_bytes: int = 16 << 20
    chunk_tokens: int = 512


@dataclass(frozen=True, slots=True)
class WeightType:
    """A parameter as it lies on the device: ggml type, shape in torch order."""

    type: str
    shape: Shape


@dataclass(frozen=True)
class Lowered:
    """A program, the host's part of each call, the program's device inputs by name, and the place of each tensor."""

    program: Program
    host: HostPart
    device_inputs: tuple[str, ...]
    module_paths: list[str] = field(default_factory=list)


Made = int | Operand  # a tensor that lies as `layout(out)` says, or one that is dense in an order of its own
Handler = Callable[..., Made | tuple[Made, ...]]  # one result, or one for each output
HandlerType = TypeVar("HandlerType", bound=Handler)
HANDLERS: dict[str, Handler] = {}
_FILLS = {"zeros_like": 0.0, "ones_like": 1.0, "empty_like": 0.0, "new_zeros": 0.0, "new_ones": 1.0, "new_empty": 0.0}
_CONSTANT, _CALL, _DEVICE = range(3)  # what a storage hangs on: the shape alone, host inputs, device inputs or weights


def handler(*names: str) -> Callable[[HandlerType], HandlerType]:
    """Register a function (lowering, first output, *args, **kwargs) for aten operations, in-place forms included."""

    def register(function: HandlerType) -> HandlerType:
        for name in names:
            HANDLERS[name] = function
        return function

    return register


def is_host_input(window: Window) -> bool:
    """Timesteps, guidance, token ids and masks: small, and better computed with exactly by torch."""
    return len(window.shape) <= 1 or not window.dtype.is_floating_point


class Lowering:
    """The state of one walk. Handlers ask it for operands and give it tensors."""

    def __init__(
        self, trace: Trace, weights: Mapping[str, WeightType], options: LowerOptions, ranks: Mapping[str, int]
    ) -> None:
        self.trace = trace
        self.weights = weights
        self.options = options
        self.ranks = ranks
        self.b = Builder()
        self.step: TracedOp | None = None
        self.host = HostPart()
        self.constants = HostStorages()
        self.bound: dict[int, StorageLayout] = {}  # device storages: what fills them now
        self.weight_names = {window.storage: name for name, window in trace.weights.items()}
        self.stage: dict[int, int] = dict.fromkeys(self.weight_names, _DEVICE)
        self.version: dict[int, int] = {}
        self._captured: dict[tuple[Window, int], Operand] = {}
        self._computed: dict[Hashable, Operand] = {}
        self.kept: dict[Hashable, Any] = {}  # what handlers found out about constants, by keys of theirs
        self.results: list[
            tuple[TracedOp, Window, StorageLayout]
        ] = []  # what each step left in the storage of its output
        for storage, tensor in trace.constants.items():
            self.constants.flat[storage] = tensor
        for name, window in trace.inputs.items():
            if is_host_input(window):
                self.host.inputs[name] = window
                self.stage[window.storage] = _CALL
            else:
                self.stage[window.storage] = _DEVICE
                leaf = self.b.leaf("input", name, "F32", (window.numel,))
                self.bound[window.storage] = StorageLayout.torch_order(leaf, window.numel)

    # -- operands

    def operand(self, window: Window) -> Operand:
        """A window as one on an F32 tensor; what the host holds becomes a constant or an input."""
        x = self.stored(window)
        if self.b[x.tensor].type not in ("F32", "I32"):
            x = replace(x, tensor=self.b.cast(x.tensor, "F32"))
        return x

    def stored(self, window: Window) -> Operand:
        """Like `operand`, but a weight keeps the type it is stored in, as matrices, kernels and tables do."""
        stage = self.stage.get(window.storage, _CONSTANT)
        if stage == _DEVICE:
            return self._content(window.storage).window(window) or self._in_torch_order(window)
        key = (window, self.version.get(window.storage, 0))
        if key not in self._captured:
            self._captured[key] = self._capture(window, stage)
        return self._captured[key]

    def _in_torch_order(self, window: Window) -> Operand:
        """A window that only torch's own layout of its storage shows: the storage is copied to that layout."""
        whole = self.bound[window.storage].whole
        self.bound[window.storage] = StorageLayout.torch_order(contiguous(self.b, whole), whole.numel)
        return Operand(self.bound[window.storage].tensor, window.shape, window.stride, window.offset)

    def _content(self, storage: int) -> StorageLayout:
        if storage not in self.bound:
            name = self.weight_names[storage]
            known = self.weights.get(name)
            if known is None:
                raise LowerError(f"{self.trace.model} holds no tensor for the parameter {name}")
            leaf = self.b.leaf("weight", name, known.type, _weight_ne(known.shape))
            self.bound[storage] = StorageLayout.torch_order(leaf, self.b.numel(leaf))
        return self.bound[storage]

    def weight_name(self, window: Window) -> str | None:
        """The parameter whose whole content a window is."""
        name = self.weight_names.get(window.storage)
        return name if name and self.trace.weights[name] == window else None

    def _capture(self, window: Window, stage: int) -> Operand:
        shape = tuple(1 if stride == 0 else n for n, stride in zip(window.shape, window.stride, strict=True))
        once = replace(window, shape=shape)
        if stage == _CONSTANT:
            tensor = self.b.constant(_within_four(as_array(self.constants.window(once))))
        else:
            name = f"host.{len(self.host.items)}"
            self.host.items.append((name, once))
            whole = not (window.dtype.is_floating_point or window.dtype == torch.bool)
            tensor = self.b.leaf("input", name, "I32" if whole else "F32", (once.numel,))
        return Operand(tensor, shape, contiguous_stride(shape)).broadcast(window.shape)

    def is_constant(self, window: Window) -> bool:
        """Whether the value is known now."""
        return self.stage.get(window.storage, _CONSTANT) == _CONSTANT

    def on_device(self, value: Any) -> bool:
        """Whether an argument is a window whose content the device computes."""
        return isinstance(value, Window) and self.stage.get(value.storage, _CONSTANT) == _DEVICE

    def value(self, window: Window) -> torch.Tensor:
        """The values of a constant."""
        if not self.is_constant(window):
            raise LowerError(f"{self._where()} needs a value that is not constant for the shape")
        return self.constants.window(window)

    def host_computed(
        self,
        name: Hashable,
        function: Callable[..., torch.Tensor],
        *windows: Window,
        dtype: torch.dtype = torch.float32,
    ) -> Operand:
        """What a torch function makes of host windows, computed where those are: now, or at every call.

        name: says what the function computes; the same name on the same windows is computed once.
        """
        stage = max(self.stage.get(window.storage, _CONSTANT) for window in windows)
        if stage == _DEVICE:
            raise LowerError(f"{self._where()} works only on values that do not come from the device")
        key = (name, windows, tuple(self.version.get(window.storage, 0) for window in windows))
        if key not in self._computed:
            shape = tuple(function(*(torch.zeros(w.shape, dtype=w.dtype) for w in windows)).shape)
            out = self.temporary(shape, dtype)
            self.stage[out.storage] = stage
            self._host_step(TracedOp(str(name), function, windows, {}, (out,), ""), stage)
            self._computed[key] = self.operand(out)
        return self._computed[key]

    def temporary(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Window:
        """A contiguous window on a storage of its own that the trace does not have."""
        storage = -1 - len(self.stage)
        self.stage[storage] = _DEVICE
        return Window(storage, shape, contiguous_stride(shape), 0, dtype)

    # -- results

    def output(self, number: int) -> Window:
        """One of the outputs of the step at hand."""
        assert self.step is not None
        window = self.step.outputs[number]
        assert window is not None
        return window

    @staticmethod
    def layout(out: Window) -> Layout:
        """How a result for `out` should lie in memory, for handlers that can choose."""
        return Layout.of(out.shape, out.stride)

    def to_layout(self, tensor: int, out: Window) -> int:
        """A result that is contiguous in torch order, as `out` wants it in memory."""
        order = self.layout(out).order
        return contiguous(self.b, Operand(tensor, out.shape, contiguous_stride(out.shape)).permuted(order))

    def scale_down(self, tensor: int) -> int:
        """Activations as they enter a matrix multiplication, within F16 where the options ask for it."""
        scale = self.options.activation_scale
        if scale == 1.0:
            return tensor
        return self.b.op("scale", rows_packed(self.b, tensor), ne=self.b[tensor].ne, parameters=(1.0 / scale, 0.0))

    def unscale(self, tensor: int, factors: int = 1) -> int:
        """The result of a multiplication of which so many factors were reduced."""
        scale = self.options.activation_scale**factors
        return tensor if scale == 1.0 else self.b.op("scale", tensor, ne=self.b[tensor].ne, parameters=(scale, 0.0))

    def bind(self, out: Window, made: Made) -> None:
        """Make a result the content of that window."""
        storage = out.storage
        self.version[storage] = self.version.get(storage, 0) + 1
        size = self.trace.storages[storage] if storage >= 0 else out.numel
        whole = is_dense(out.shape, out.stride, out.offset, size)
        if whole and isinstance(made, Operand):
            self.bound[storage] = StorageLayout.of(out, made)
        else:
            if isinstance(made, Operand):
                made = contiguous(self.b, made.permuted(self.layout(out).order))
            self.bound[storage] = StorageLayout.torch_order(made if whole else self._written(out, made, size), size)
        self.stage[storage] = _DEVICE
        if self.step is not None and storage >= 0:
            self.results.append((self.step, out, self.bound[storage]))

    def _written(self, out: Window, tensor: int, size: int) -> int:
        """The content of a storage with a window of it replaced."""
        whole = Window(out.storage, (size,), (1,), 0, out.dtype)
        before = self.operand(whole)
        order = self.layout(out).order
        x = Operand(tensor, out.shape, out.stride, out.offset).permuted(order)
        groups = [(n, stride[0]) for n, stride in collapse(x.shape, [x.stride])]
        length, step = groups[-1]
        count, pitch = groups[0] if len(groups) == 2 else (1, size)
        start = out.offset
        if len(groups) > 2 or step != 1 or count * pitch != size or start + length > pitch:
            return self._set(before, tensor, x, groups, size)
        parts = [(before, 0, start), (None, 0, length), (before, start + length, pitch - start - length)]
        result: int | None = None
        for source, offset, n in parts:
            if n == 0:
                continue
            if source is None:
                piece = self.b.reshape(tensor, (length, count))
            else:
                piece = self.b.window(source.tensor, [(n, 1), (count, pitch)], offset)
            if result is None:
                result = piece
            else:
                ne = (self.b[result].ne[0] + n, count)
                result = self.b.op("concat", result, piece, ne=ne, parameters=(0,))
        assert result is not None
        return result

    def _set(self, before: Operand, tensor: int, x: Operand, groups: list[tuple[int, int]], size: int) -> int:
        """A copy of a storage with a window of several dimensions replaced."""
        b = self.b
        if groups[-1][1] != 1:
            groups = [*groups, (1, 1)]
        if len(groups) > 4 or any(stride == 0 for _, stride in groups):
            raise LowerError(f"{self._where()} writes into a window {x.shape} with strides {x.stride} of {size}")
        piece = b.reshape(tensor, [n for n, _ in reversed(groups)])
        nb = [4 * stride for _, stride in reversed(groups[:-1])]
        nb += [4 * size] * (3 - len(nb))
        whole = b.window(before.tensor, [(size, 1)], 0)
        return b.op("set", whole, piece, ne=(size,), parameters=(*nb, 4 * x.offset))

    # -- the walk

    def run(self) -> Lowered:
        """Lower every step and collect the outputs."""
        for step in fuse(self.trace).steps:
            self.step = step
            self.b.module_path = step.module_path
            self._step(step)
        tensors = []
        for window in self.trace.outputs:
            tensor = contiguous(self.b, self.operand(window))
            if self.b[tensor].kind != "op" or self.b[tensor].type != "F32":
                tensor = self.b.op("scale", tensor, ne=self.b[tensor].ne, parameters=(1.0, 0.0))
            tensors.append(tensor)
        tensors = split_columns(self.b, tensors, self.options.chunk_threshold_bytes)
        tensors = in_chunks(self.b, tensors, self.options.chunk_threshold_bytes, self.options.chunk_tokens)
        outputs = [Output(tensor, window.shape) for tensor, window in zip(tensors, self.trace.outputs, strict=True)]
        program, module_paths = self.b.program(outputs)
        names = {tensor.name for tensor in program.tensors if tensor.kind == "input"}
        device = tuple(name for name in self.trace.inputs if name in names)
        return Lowered(program, self.host, device, module_paths)

    def _step(self, step: TracedOp) -> None:
        name = step.name.split(".")[1] if step.name.startswith("aten.") else step.name
        if name in _FILLS or name in ("full_like", "new_full"):
            self._fill(step, name)
            return
        stages = [self.stage.get(window.storage, _CONSTANT) for window in windows_in((step.args, step.kwargs))]
        stage = max(stages, default=_CONSTANT)
        if stage < _DEVICE:
            self._host_step(step, stage)
            return
        function = HANDLERS.get(name) or (HANDLERS.get(name[:-1]) if name.endswith("_") else None)
        if function is None:
            raise LowerError(
                f"{self._where()} is not supported yet: no handler for the operation {step.name} on "
                f"{', '.join(str(list(window.shape)) for window in windows_in(step.args)) or 'no tensors'}. "
                "Please report the model and this line."
            )
        try:
            result = function(self, step.outputs[0], *step.args, **step.kwargs)
            for out, tensor in zip(step.outputs, result if isinstance(result, tuple) else (result,), strict=False):
                assert out is not None
                self.bind(out, tensor)
        except (ValueError, TypeError, AssertionError) as error:
            raise LowerError(f"{self._where()}: {error}") from error

    def _fill(self, step: TracedOp, name: str) -> None:
        window = step.outputs[0]
        assert window is not None
        value = _FILLS[name] if name in _FILLS else step.args[-1]
        size = self.trace.storages[window.storage]
        self.constants.flat[window.storage] = torch.full((size,), value, dtype=window.dtype)
        self.stage[window.storage] = _CONSTANT

    def _host_step(self, step: TracedOp, stage: int) -> None:
        outputs = [out.storage for out in step.outputs if out is not None]
        for storage in outputs:
            self.version[storage] = self.version.get(storage, 0) + 1
        if stage == _CONSTANT:
            with torch.no_grad():
                self.constants.run(step)
            return
        target = step.args[0] if step.args else None
        if isinstance(target, Window) and target in step.outputs and self.is_constant(target):
            self._constant_per_call(target)

        def frozen(window: Window) -> Any:
            return self.constants.window(window).clone() if self.is_constant(window) else window

        args, kwargs = with_windows((step.args, step.kwargs), frozen)
        self.host.items.append(replace(step, args=args, kwargs=kwargs))
        self.stage.update(dict.fromkeys(outputs, _CALL))

    def _constant_per_call(self, window: Window) -> None:
        """Give a constant that a call writes into a fresh copy at every call."""
        flat = self.constants.flat[window.storage].clone()
        whole = Window(window.storage, tuple(flat.shape), (1,), 0, window.dtype)
        self.host.items.append(TracedOp("clone", flat.clone, (), {}, (whole,), ""))
        self.stage[window.storage] = _CALL

    def _where(self) -> str:
        assert self.step is not None
        module_path = f"{self.trace.model}, in {self.step.module_path}" if self.step.module_path else self.trace.model
        return f"{module_path} ({self.step.name})"


def _weight_ne(shape: Shape) -> Shape:
    ne = tuple(reversed(shape)) or (1,)
    return ne if len(ne) <= 4 else (*ne[:3], int(np.prod(ne[3:])))


def _within_four(array: np.ndarray) -> np.ndarray:
    return array if array.ndim <= 4 else array.reshape(-1)


def lower(
    trace: Trace,
    weights: Mapping[str, WeightType],
    options: LowerOptions | None = None,
    ranks: Mapping[str, int] | None = None,
) -> Lowered:
    """Lower a trace to a program.

    weights: the types and shapes that the parameters have on the device; ranks: parameters with a low-rank branch, and
    its rank; the branch's matrices are the weights `NAME.lora_down` [rank, in] and `NAME.lora_up` [out, rank].
    Raises LowerError where an operation has no handler, naming it, the model and the module.
    """
    return Lowering(trace, weights, options or LowerOptions(), ranks or {}).run()
