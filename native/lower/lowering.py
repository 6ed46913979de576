"""The state of a walk through a trace: operands for handlers, and what becomes of their results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, TypeVar

import torch

from ..program.builder import Builder, LowerError
from ..trace.graph import Trace, TracedOp, Window
from ..trace.values import with_windows
from .constants import Constants, is_large_table
from .grids import constant
from .host import HostPart, Island, Lowered, as_constant, is_host_input
from .storages import StorageLayout, written
from .strides import Layout, Operand, Shape, contiguous, contiguous_stride, covers, rows_packed


class Stage(IntEnum):
    """When the content of a storage is known."""

    CONSTANT = 0  # now: it depends on the shapes alone
    HOST = 1  # at every call, on the host: it depends on host inputs
    DEVICE = 2  # on the device: it depends on weights or device inputs


@dataclass(frozen=True, slots=True)
class LowerOptions:
    """Choices that change the program.

    flash: use flash attention where the scores of attention without it would take more than `flash_bytes`.
    kv_type: type of K and V in flash attention.
    activation_scale: activations are divided by this before every matrix multiplication and the result is multiplied
    by it, for models whose activations pass 65504 on devices that hold them as F16 while they multiply.
    chunk_threshold_bytes: activations from this size on are computed in chunks where that lowers the peak of memory.
    chunk_tokens: the least tokens of a chunk; matrix kernels are as fast with so many as with more.
    islands: torch computes what no program can express; without them that is an error.
    values: without them large constants of whole numbers have only shapes, for what counts bytes alone.
    """

    flash: bool = True
    flash_bytes: int = 32 << 20
    kv_type: str = "F16"
    activation_scale: float = 1.0
    chunk_threshold_bytes: int = 16 << 20
    chunk_tokens: int = 512
    islands: bool = True
    values: bool = True


@dataclass(frozen=True, slots=True)
class WeightType:
    """A parameter on the device: ggml type, shape in torch order."""

    type: str
    shape: Shape
    rotation: int = 0  # columns that a Hadamard matrix has turned together; 0: none


@dataclass(frozen=True, slots=True)
class Branch:
    """A low-rank product beside rows and columns of a weight: matrices down [rank, columns] and up [rows, rank]."""

    type: str  # of both matrices
    rank: int
    row: int  # the first
    rows: int
    column: int  # the first
    columns: int

    @staticmethod
    def names(weight: str, number: int) -> tuple[str, str]:
        """The names of the matrices, down and up, of the branch of this number beside a weight."""
        return f"{weight}.lora_down.{number}", f"{weight}.lora_up.{number}"


Made = int | Operand  # a tensor with the layout `layout(out)`, or a window in an order of its own
Handler = Callable[..., Made | tuple[Made, ...]]  # one result, or one for each output
HandlerType = TypeVar("HandlerType", bound=Handler)
HANDLERS: dict[str, Handler] = {}


def handler(*names: str) -> Callable[[HandlerType], HandlerType]:
    """Register a function (lowering, first output, *args, **kwargs) for aten operations, in-place forms included.

    Raises ValueError where one of them has a handler already.
    """

    def register(function: HandlerType) -> HandlerType:
        for name in names:
            if name in HANDLERS:
                both = " and ".join(f"{each.__module__}.{each.__qualname__}" for each in (HANDLERS[name], function))
                raise ValueError(f"the operation {name} has two handlers: {both}")
            HANDLERS[name] = function
        return function

    return register


class Lowering:
    """The state of one walk. Handlers ask it for operands and give it tensors."""

    def __init__(
        self,
        trace: Trace,
        weights: Mapping[str, WeightType],
        options: LowerOptions,
        branches: Mapping[str, Sequence[Branch]],
    ) -> None:
        self.trace = trace
        self.weights = weights
        self.options = options
        self.branches = branches
        self.step: TracedOp | None = None
        self.carried: set[int] = set()  # storages that the host holds from one program to the next
        self.constants = Constants(trace, options.values)
        self.weight_names = {window.storage: name for name, window in trace.weights.items()}
        self.stage: dict[int, Stage] = dict.fromkeys(self.weight_names, Stage.DEVICE)
        self.version: dict[int, int] = {}
        self.results: list[tuple[TracedOp, Window, StorageLayout]] = []  # each step's output, and its storage then
        self.parts: list[Lowered] = []  # that are finished
        self.begin_part()
        for name, window in trace.inputs.items():
            if is_host_input(window):
                self.host.inputs[name] = window
                self.stage[window.storage] = Stage.HOST
            else:
                self.stage[window.storage] = Stage.DEVICE
                self.bind_leaf(name, window.storage)

    def begin_part(self) -> None:
        """Begin a new program, in which no tensor of the one before is known."""
        self.b = Builder()
        self.host = HostPart()
        self.islands: list[Island] = []
        self.bound: dict[int, StorageLayout] = {}  # the current content of device storages
        self._captured: dict[tuple[Window, int], Operand] = {}
        self._computed: dict[Hashable, Operand] = {}
        self.cache: dict[Hashable, Any] = {}  # of handlers, on constants

    def bind_leaf(self, name: str, storage: int) -> None:
        """Make an input of the program the content of a storage."""
        size = self.trace.storages[storage]
        self.bound[storage] = StorageLayout.torch_order(self.b.leaf("input", name, "F32", (size,)), size)

    # -- operands

    def operand(self, window: Window) -> Operand:
        """A window on an F32 tensor, also of whole numbers and truth values (1, 0); one of the host is made a leaf."""
        x = self.stored(window)
        if self.b[x.tensor].type != "F32":
            x = replace(x, tensor=self.b.op("cast", x.tensor, type="F32"))
        return x

    def stored(self, window: Window) -> Operand:
        """Like `operand`, but a weight keeps its type: for matrices, kernels and tables, which may be quantized."""
        if not window.numel:
            raise LowerError(f"a tensor without elements, {list(window.shape)}")
        if window.dtype.is_complex:
            raise LowerError("complex numbers")
        stage = self.stage.get(window.storage, Stage.CONSTANT)
        if stage == Stage.DEVICE:
            return self._content(window.storage).window(window) or self._in_torch_order(window)
        key = (window, self.version.get(window.storage, 0))
        if key not in self._captured:
            self._captured[key] = self._capture(window, stage)
        return self._captured[key]

    def _in_torch_order(self, window: Window) -> Operand:
        """A window that needs torch's own layout of its storage: the storage is copied to that layout."""
        storage = self.bound[window.storage].operand
        copy = contiguous(self.b, storage)
        self.bound[window.storage] = StorageLayout.torch_order(copy, storage.numel)
        return Operand(copy, window.shape, window.stride, window.offset)

    def _content(self, storage: int) -> StorageLayout:
        if storage not in self.bound:
            name = self.weight_names[storage]
            known = self.weights.get(name)
            if known is None:
                raise LowerError(f"the weights of {self.trace.model} lack {name}, and the module has no values for it")
            if known.rotation:
                raise LowerError(f"{name} is stored turned (ConvRot), and is used by more than a linear layer")
            leaf = self.b.leaf("weight", name, known.type, known.shape)
            self.bound[storage] = StorageLayout.torch_order(leaf, self.b.numel(leaf))
        return self.bound[storage]

    def weight_name(self, window: Window) -> str | None:
        """The name of the parameter that a window is; None where it is a part of one or none."""
        name = self.weight_names.get(window.storage)
        return name if name and self.trace.weights[name] == window else None

    def _capture(self, window: Window, stage: Stage) -> Operand:
        shape = tuple(1 if stride == 0 else n for n, stride in zip(window.shape, window.stride, strict=True))
        once = replace(window, shape=shape)
        if stage == Stage.CONSTANT:
            if window.storage not in self.constants:
                raise LowerError("a result that no handler makes, such as the statistics of a norm")
            if not self.options.values and is_large_table(once):
                tensor = self.b.constant_without_values("I32", shape)
            else:
                values = as_constant(self.constants.compact(once))
                shape = values.shape[: len(shape)]  # numpy gives a number one dimension
                tensor = constant(self.b, values)
            self.constants.forget()
        else:
            name = f"host.{len(self.host.items)}"
            self.host.items.append((name, once))
            is_float = window.dtype.is_floating_point or window.dtype == torch.bool
            tensor = self.b.leaf("input", name, "F32" if is_float else "I32", (once.numel,))
        return Operand(tensor, shape, contiguous_stride(shape)).broadcast(window.shape)

    def is_constant(self, window: Window) -> bool:
        """Whether the values are known now."""
        return self.stage.get(window.storage, Stage.CONSTANT) == Stage.CONSTANT

    def number(self, window: Window) -> float | None:
        """The number that all elements of a constant are, where that is known without making them."""
        if not self.is_constant(window) or not window.numel or window.dtype.is_complex:
            return None
        if window.numel > 1 and not self.constants.filled(window.storage):
            return None
        return float(self.constants.compact(window))

    def on_device(self, value: Any) -> bool:
        """Whether an argument is a window that the device computes."""
        return isinstance(value, Window) and self.stage.get(value.storage, Stage.CONSTANT) == Stage.DEVICE

    def value(self, window: Window) -> torch.Tensor:
        """The values of a constant."""
        if not self.is_constant(window):
            raise LowerError("it needs a value that is not constant for the shape")
        return self.constants.compact(window).expand(window.shape)

    def host_computed(
        self,
        name: Hashable,
        function: Callable[..., torch.Tensor],
        *windows: Window,
        dtype: torch.dtype = torch.float32,
    ) -> Operand:
        """The result of a torch function of host windows, computed on the host: now, or at every call.

        name: of the function; the same name on the same windows is computed once.
        """
        stage = max(self.stage.get(window.storage, Stage.CONSTANT) for window in windows)
        if stage == Stage.DEVICE:
            raise LowerError("it works only on values that do not come from the device")
        key = (name, windows, tuple(self.version.get(window.storage, 0) for window in windows))
        if key not in self._computed:
            shape = tuple(function(*(torch.zeros((), dtype=w.dtype).expand(w.shape) for w in windows)).shape)
            out = self.temporary(shape, dtype)
            self.stage[out.storage] = stage
            self.host_step(TracedOp(str(name), function, windows, {}, (out,), ""), stage)
            self._computed[key] = self.stored(out)
        return self._computed[key]

    def temporary(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Window:
        """A contiguous window on a storage of its own that the trace does not have."""
        storage = -1 - len(self.stage)
        self.stage[storage] = Stage.DEVICE
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
        """The memory layout that a result for `out` should have, for handlers that can choose."""
        return Layout.of(out.shape, out.stride)

    def to_layout(self, tensor: int, out: Window) -> int:
        """A result that is contiguous in torch order, in the memory layout of `out`."""
        order = self.layout(out).order
        return contiguous(self.b, Operand(tensor, out.shape, contiguous_stride(out.shape)).permuted(order))

    def scale_down(self, tensor: int) -> int:
        """Activations divided by `activation_scale` before a matrix multiplication, so that they stay within F16."""
        scale = self.options.activation_scale
        return tensor if scale == 1.0 else self.b.op("scale", rows_packed(self.b, tensor), factor=1.0 / scale)

    def unscale(self, tensor: int, factors: int = 1) -> int:
        """The result of a multiplication of which so many factors were scaled down."""
        scale = self.options.activation_scale**factors
        return tensor if scale == 1.0 else self.b.op("scale", tensor, factor=scale)

    def bind(self, out: Window, made: Made) -> None:
        """Make a result the content of that window; raises LowerError for complex numbers, which no tensor holds."""
        storage = out.storage
        if out.dtype.is_complex:
            raise LowerError("complex numbers")
        self.version[storage] = self.version.get(storage, 0) + 1
        size = self.trace.storages[storage] if storage >= 0 else out.numel
        found = made.numel if isinstance(made, Operand) else self.b.numel(made)
        assert found == out.numel, f"the result has {found} elements, the output {list(out.shape)}"
        if isinstance(made, Operand) and not covers(made.shape, made.stride, made.offset, self.b.numel(made.tensor)):
            made = Operand(contiguous(self.b, made), made.shape, contiguous_stride(made.shape))
        if covers(out.shape, out.stride, out.offset, size) and isinstance(made, Operand):
            content = StorageLayout.of(out, made)
        else:
            if isinstance(made, Operand):
                made = contiguous(self.b, made.permuted(self.layout(out).order))
            if not covers(out.shape, out.stride, out.offset, size):
                made = written(self.b, self.operand(Window(storage, (size,), (1,), 0, out.dtype)), made, out)
            content = StorageLayout.torch_order(made, size)
        self.bound[storage] = content
        self.stage[storage] = Stage.DEVICE
        if self.step is not None and storage >= 0:
            self.results.append((self.step, out, content))

    # -- steps on the host

    def host_step(self, step: TracedOp, stage: Stage) -> None:
        """Have torch do a step on the host: now where it is constant, else at every call."""
        outputs = [out.storage for out in step.outputs if out is not None]
        for storage in outputs:
            self.version[storage] = self.version.get(storage, 0) + 1
        if stage == Stage.CONSTANT:
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
        self.stage.update(dict.fromkeys(outputs, Stage.HOST))

    def _constant_per_call(self, window: Window) -> None:
        """Copy a constant at every call that writes into it."""
        flat = self.constants.flat[window.storage].clone()
        copy = Window(window.storage, tuple(flat.shape), (1,), 0, window.dtype)
        self.host.items.append(TracedOp("clone", torch.clone, (flat,), {}, (copy,), ""))
        self.stage[window.storage] = Stage.HOST
