"""Walks a trace: computes constants, leaves what depends on host inputs to the host, lowers the rest by handlers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, TypeVar

import torch

from ..program import Output, Program
from ..program.builder import Builder, LowerError
from ..trace.graph import Trace, TracedOp, Window, windows_in
from ..trace.record import decompose
from .host import HostPart, HostStorages, as_constant, is_host_input, with_windows
from .passes.chunk_tokens import in_chunks
from .passes.fuse import fuse
from .passes.split_columns import split_columns
from .storages import StorageLayout, written
from .strides import Layout, Operand, Shape, contiguous, contiguous_stride, covers, rows_packed


class HandlerBug(RuntimeError):
    """A handler failed in a way that it did not mean to; its cause is the original error."""


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
    """

    flash: bool = True
    flash_bytes: int = 32 << 20
    kv_type: str = "F16"
    activation_scale: float = 1.0
    chunk_threshold_bytes: int = 16 << 20
    chunk_tokens: int = 512


@dataclass(frozen=True, slots=True)
class WeightType:
    """A parameter on the device: ggml type, shape in torch order."""

    type: str
    shape: Shape


@dataclass(frozen=True)
class Lowered:
    """A program, the host's part of each call, the program's device inputs by name, and each tensor's module path."""

    program: Program
    host: HostPart
    device_inputs: tuple[str, ...]
    module_paths: list[str] = field(default_factory=list)


Made = int | Operand  # a tensor with the layout `layout(out)`, or one without gaps in an order of its own
Handler = Callable[..., Made | tuple[Made, ...]]  # one result, or one for each output
HandlerType = TypeVar("HandlerType", bound=Handler)
HANDLERS: dict[str, Handler] = {}
_FILLS = {"zeros_like": 0.0, "ones_like": 1.0, "empty_like": 0.0, "new_zeros": 0.0, "new_ones": 1.0, "new_empty": 0.0}
_RANDOM_LIKE = {"randn_like": torch.randn, "rand_like": torch.rand}


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
        self.bound: dict[int, StorageLayout] = {}  # the current content of device storages
        self.weight_names = {window.storage: name for name, window in trace.weights.items()}
        self.stage: dict[int, Stage] = dict.fromkeys(self.weight_names, Stage.DEVICE)
        self.version: dict[int, int] = {}
        self._captured: dict[tuple[Window, int], Operand] = {}
        self._computed: dict[Hashable, Operand] = {}
        self.cache: dict[Hashable, Any] = {}  # of handlers, on constants
        self.results: list[tuple[TracedOp, Window, StorageLayout]] = []  # each step's output, and its storage then
        for storage, tensor in trace.constants.items():
            self.constants.flat[storage] = tensor
        for name, window in trace.inputs.items():
            if is_host_input(window):
                self.host.inputs[name] = window
                self.stage[window.storage] = Stage.HOST
            else:
                self.stage[window.storage] = Stage.DEVICE
                leaf = self.b.leaf("input", name, "F32", (window.numel,))
                self.bound[window.storage] = StorageLayout.torch_order(leaf, window.numel)

    # -- operands

    def operand(self, window: Window) -> Operand:
        """A window on an F32 tensor of the program; a storage of the host becomes a constant or an input."""
        x = self.stored(window)
        if self.b[x.tensor].type not in ("F32", "I32"):
            x = replace(x, tensor=self.b.op("cast", x.tensor, type="F32"))
        return x

    def stored(self, window: Window) -> Operand:
        """Like `operand`, but a weight keeps its type: for matrices, kernels and tables, which may be quantized."""
        if not window.numel:
            raise LowerError(f"a tensor without elements, {list(window.shape)}")
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
                raise LowerError(f"the weights of {self.trace.model} lack the parameter {name}")
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
            values = as_constant(self.constants.window(once))
            shape, tensor = values.shape, self.b.constant(values)
        else:
            name = f"host.{len(self.host.items)}"
            self.host.items.append((name, once))
            is_float = window.dtype.is_floating_point or window.dtype == torch.bool
            tensor = self.b.leaf("input", name, "F32" if is_float else "I32", (once.numel,))
        return Operand(tensor, shape, contiguous_stride(shape)).broadcast(window.shape)

    def is_constant(self, window: Window) -> bool:
        """Whether the values are known now."""
        return self.stage.get(window.storage, Stage.CONSTANT) == Stage.CONSTANT

    def on_device(self, value: Any) -> bool:
        """Whether an argument is a window that the device computes."""
        return isinstance(value, Window) and self.stage.get(value.storage, Stage.CONSTANT) == Stage.DEVICE

    def value(self, window: Window) -> torch.Tensor:
        """The values of a constant."""
        if not self.is_constant(window):
            raise LowerError("it needs a value that is not constant for the shape")
        return self.constants.window(window)

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
            shape = tuple(function(*(torch.zeros(w.shape, dtype=w.dtype) for w in windows)).shape)
            out = self.temporary(shape, dtype)
            self.stage[out.storage] = stage
            self._host_step(TracedOp(str(name), function, windows, {}, (out,), ""), stage)
            self._computed[key] = self.operand(out)
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
        """Make a result the content of that window."""
        storage = out.storage
        self.version[storage] = self.version.get(storage, 0) + 1
        size = self.trace.storages[storage] if storage >= 0 else out.numel
        found = made.numel if isinstance(made, Operand) else self.b.numel(made)
        assert found == out.numel, f"the result has {found} elements, the output {list(out.shape)}"
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

    # -- the walk

    def run(self) -> Lowered:
        """Lower every step and collect the outputs."""
        for step in fuse(self.trace).steps:
            self.step = step
            self.b.module_path = step.module_path
            try:
                self._step(step)
            except LowerError as error:
                where = self._where()
                raise LowerError(f"{where} is not supported yet: {error}. Please report the model.") from error
        tensors = []
        for window in self.trace.outputs:
            tensor = contiguous(self.b, self.operand(window))
            if self.b[tensor].kind != "op" or self.b[tensor].type != "F32":
                tensor = self.b.op("scale", tensor, factor=1.0)
            tensors.append(tensor)
        tensors = split_columns(self.b, tensors, self.options.chunk_threshold_bytes)
        tensors = in_chunks(self.b, tensors, self.options.chunk_threshold_bytes, self.options.chunk_tokens)
        outputs = [Output(tensor, window.shape) for tensor, window in zip(tensors, self.trace.outputs, strict=True)]
        program, module_paths = self.b.program(outputs)
        names = {tensor.name for tensor in program.tensors if tensor.kind == "input"}
        device = tuple(name for name in self.trace.inputs if name in names)
        return Lowered(program, self.host, device, module_paths)

    def _step(self, step: TracedOp) -> None:
        if {out.numel for out in step.outputs if out is not None} == {0}:
            return  # nothing to compute, and whoever reads it needs no more than its shape
        name = step.name.split(".")[1] if step.name.startswith("aten.") else step.name
        if name in _FILLS or name in ("full_like", "new_full"):
            self._fill(step, name)
            return
        read = [window.storage for window in windows_in((step.args, step.kwargs)) if window.numel]
        stage = max((self.stage.get(storage, Stage.CONSTANT) for storage in read), default=Stage.CONSTANT)
        if name in _RANDOM_LIKE and step.outputs[0] is not None:  # torch draws on the host, of the shape of a tensor
            like, stage = step.outputs[0], Stage.HOST
            step = replace(step, function=_RANDOM_LIKE[name], args=(like.shape,), kwargs={"dtype": like.dtype})
        elif torch.Tag.nondeterministic_seeded in getattr(step.function, "tags", ()):
            stage = max(stage, Stage.HOST)  # at every call
        if stage < Stage.DEVICE:
            self._host_step(step, stage)
            return
        function = HANDLERS.get(name) or (HANDLERS.get(name[:-1]) if name.endswith("_") else None)
        if function is None:
            self._decomposed(step)
            return
        try:
            result = function(self, step.outputs[0], *step.args, **step.kwargs)
            for out, made in zip(step.outputs, result if isinstance(result, tuple) else (result,), strict=False):
                assert out is not None
                self.bind(out, made)
        except LowerError:
            raise
        except Exception as error:
            raise HandlerBug(
                f"{self._where()}: a bug in the handler of {name} ({function.__module__}.{function.__qualname__}): "
                f"{type(error).__name__}: {error}. Please report the model and this line."
            ) from error

    def _decomposed(self, step: TracedOp) -> None:
        """Lower a step that has no handler by the steps of torch's own decomposition of it."""
        shapes = ", ".join(str(list(window.shape)) for window in windows_in(step.args)) or "no tensors"
        missing = f"no handler for the operation {step.name} on {shapes}"
        found = decompose(step, self.trace.storages)
        if found is None:
            raise LowerError(missing)
        steps, storages = found
        self.trace = replace(self.trace, storages=storages)
        try:
            for each in steps:
                self._step(each)
        except LowerError as error:
            raise LowerError(f"{missing}, and in torch's decomposition of it {error}") from error

    def _fill(self, step: TracedOp, name: str) -> None:
        (window,) = windows_in(step.outputs)
        size, value = self.trace.storages[window.storage], _FILLS[name] if name in _FILLS else step.args[-1]
        self.constants.flat[window.storage] = torch.full((size,), value, dtype=window.dtype)
        self.stage[window.storage] = Stage.CONSTANT

    def _host_step(self, step: TracedOp, stage: Stage) -> None:
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
        self.host.items.append(TracedOp("clone", flat.clone, (), {}, (copy,), ""))
        self.stage[window.storage] = Stage.HOST

    def _where(self) -> str:
        assert self.step is not None
        module_path = f"{self.trace.model}, in {self.step.module_path}" if self.step.module_path else self.trace.model
        return f"{module_path} ({self.step.name})"


def lower(
    trace: Trace,
    weights: Mapping[str, WeightType],
    options: LowerOptions | None = None,
    ranks: Mapping[str, int] | None = None,
) -> Lowered:
    """Lower a trace to a program.

    weights: the types and shapes that the parameters have on the device; ranks: parameters with a low-rank branch, and
    its rank; the branch's matrices are the weights `NAME.lora_down` [rank, in] and `NAME.lora_up` [out, rank].
    Raises LowerError where an operation is not supported, and HandlerBug where a handler fails, naming it, the model
    and the module.
    """
    return Lowering(trace, weights, options or LowerOptions(), ranks or {}).run()
