"""Records the operations of a torch module on fake tensors.

Both modes used here are local to the calling thread, and the module is this pack's own, so a torch model that runs
in another thread sees nothing of a trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from .apart import Refused, naming
from .graph import Question, Trace, TracedOp, Window
from .kept_state import unchanged
from .known import knowing
from .meta_kernels import by_meta_kernel, has_meta_kernel
from .module_part import Function, OfPart, fakes_of, weights_in
from .one_step import recording
from .questions import TraceError, ask, code_of, model_code, model_frame, needed_for
from .recorder import Recorder
from .rows import ChosenRows


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """An empty result of scaled_dot_product_attention in the layout of engines: heads next to channels in memory."""
    if query.ndim != 4:
        return _new(query, (*query.shape[:-1], value.shape[-1]))
    batch, heads, tokens, _ = query.shape
    return _new(query, (batch, tokens, heads, value.shape[3])).transpose(1, 2)


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:  # noqa: A002
    """An empty result of linear; raises what torch does where the shapes do not fit."""
    if weight.ndim != 2 or input.shape[-1] != weight.shape[1]:
        return torch.nn.functional.linear(input, weight, bias)
    return _new(input, (*input.shape[:-1], weight.shape[0]))


def _new(like: torch.Tensor, shape: Sequence[int]) -> Any:
    return by_meta_kernel(torch.ops.aten.new_empty.default, like, shape)


def _rms_norm(input: torch.Tensor, *_args: Any, **_named: Any) -> torch.Tensor:  # noqa: A002
    return by_meta_kernel(torch.ops.aten.empty_like.default, input)


_INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)

# Functions that torch decomposes before a dispatch mode sees them, each with a function for its result's layout where
# torch's own is not ours.
_ATOMIC: dict[Any, tuple[str, Callable[..., Any] | None]] = {
    torch.nn.functional.linear: ("linear", _linear),
    torch.nn.functional.scaled_dot_product_attention: ("scaled_dot_product_attention", _attention),
    torch.nn.functional.rms_norm: ("rms_norm", _rms_norm),
    torch.rms_norm: ("rms_norm", _rms_norm),
}


class _AtomicMode(TorchFunctionMode):
    """Records each function of `_ATOMIC` as one step."""

    def __init__(self, recorder: Recorder, operations: _OperationMode) -> None:
        super().__init__()
        self.recorder = recorder
        self.operations = operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answers = self.operations.answers
        if answers is not None and args and isinstance(args[0], FakeTensor):
            if func is torch.Tensor.numpy:
                values = answers("numpy", torch.clone, args[:1], {})
                with _disable_current_modes():
                    return values.numpy(**kwargs)
            rows = self._of_rows(func, args, answers)
            if rows is not None:
                return rows
        atomic = _ATOMIC.get(func)
        if atomic is None or not self.operations.active:
            return func(*args, **kwargs)
        name, layout = atomic
        with self.operations.paused():
            result = (layout or func)(*args, **kwargs)
        if answers is not None:
            answers.rows.check(name, func, args, kwargs, result)
        self.recorder.add(name, func, args, kwargs, result)
        return result

    @staticmethod
    def _of_rows(func: Any, args: Any, answers: _Answers) -> Any:
        """The result of a function of Tensor for rows that the device has chosen; None where they are none."""
        x, rows = args[0], answers.rows
        if func is torch.Tensor.unbind and x.ndim and isinstance(x.shape[0], torch.SymInt) and args[1:] in ((), (0,)):
            return rows.each(x)
        if func is torch.Tensor.__bool__ and answers.unknown(x) and rows.passes_over(model_frame(), x):
            return False
        if func is not torch.Tensor.__getitem__ or not x.ndim:
            return None
        key = args[1]
        if isinstance(key, int) and isinstance(x.shape[0], torch.SymInt):
            return rows.number(x, key)
        if isinstance(key, slice) and key.step is None:
            bounds = [each for each in (key.start, key.stop) if isinstance(each, torch.Tensor)]
            if any(map(answers.unknown, bounds)):
                return rows.between(x, key.start, key.stop)
        return None


class _OperationMode(TorchDispatchMode):
    """Records every aten operation that reaches the dispatcher."""

    def __init__(self, recorder: Recorder, answers: _Answers | None = None) -> None:
        """answers: to what fake tensors have no result of."""
        super().__init__()
        self.recorder = recorder
        self.answers = answers
        self.active = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch.compile never sees a trace

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let operations pass unrecorded."""
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """As `paused`; what asks for a value raises torch's own exception."""
        before, self.answers = self.answers, None
        try:
            with self.paused():
                yield
        finally:
            self.answers = before

    def constant(self, x: torch.Tensor) -> Any:
        """The values of a tensor; None where they hang on an input or a weight, or are of what passes unrecorded."""
        return None if self.answers is None else self.answers.constant(x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answers = self.answers
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        if torch.is_inference_mode_enabled() and func._can_decompose():  # in a method of a model that enters the mode
            with self:
                return func.decompose(*args, **kwargs)
        if self.active and isinstance(out := kwargs.pop("out", None), torch.Tensor):  # into a part of a storage, too
            with self:
                return out.copy_(func.overloadpacket(*args, **kwargs))
        if func in _INDEXING and self.active:
            args = (args[0], self._numbered(args[1]), *args[2:])
        if answers is not None and self.active and func is torch.ops.aten.index.Tensor:
            with self:
                args = (args[0], answers.rows.inside(*args))
        if answers is not None and self.active and answers.rows.writes(func, args):
            with naming(str(func)), self:
                return answers.rows.write(func, args, kwargs)
        try:
            result = by_meta_kernel(func, *args, **kwargs) if has_meta_kernel(func) else func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if answers is None:
                raise
            with naming(str(func)), self:
                return answers(str(func), func, args, kwargs)
        if self.active:
            name = str(func)
            if answers is not None:
                answers.rows.check(name, func, args, kwargs, result)
            self.recorder.add(name, func, args, kwargs, result)
        return result

    def _numbered(self, indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """The indices of an indexing operation, a mask among them as the numbers of its elements that are true."""
        found: list[torch.Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                found.append(index)
                continue
            numbers = self.__torch_dispatch__(torch.ops.aten.nonzero.default, (), (index,))
            if isinstance(numbers, FakeTensor):
                found += numbers.unbind(1)
                continue
            with _disable_current_modes():
                found += [column.contiguous() for column in numbers.unbind(1)]
        return found


class _Answers:
    """The questions that a module's code asked in a trace, each answered from the inputs of the call."""

    def __init__(
        self, model: str, recorder: Recorder, values: Mapping[str, torch.Tensor], environment: ShapeEnv
    ) -> None:
        self.model = model
        self.rows = ChosenRows(recorder, environment, self.constant)
        self.recorder = recorder
        self.values = values
        self.inputs: dict[str, Window] = {}
        self.on_device: set[int] = set()
        self.questions: list[Question] = []

    def __call__(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The result of an operation; raises TraceError where it hangs on the weights."""
        question = self._question(name, function, args, kwargs)
        if question is None and function in _OF_ROWS:
            return _OF_ROWS[function](self.rows, *args, **kwargs)
        if question is None:
            raise TraceError(
                f"{self.model} cannot be traced: {self.recorder.module_path or self.model} asks for a value that the "
                f"model computes ({name}), at {model_code()}. Please report the model and the node that made it."
            )
        if question.inputs:
            self.questions.append(question)
        return question.answer

    def unknown(self, x: torch.Tensor) -> bool:
        """Whether the values of a tensor hang on the weights."""
        return self._question("value", torch.clone, (x,), {}) is None

    def constant(self, x: torch.Tensor) -> Any:
        """The values of a tensor; None where they hang on an input or a weight."""
        question = self._question("value", torch.clone, (x,), {})
        return question.answer if question is not None and not question.inputs else None

    def on_input(self, x: torch.Tensor) -> bool:
        """Whether a tensor hangs on an input."""
        needed, _ = needed_for([self.recorder.window(x)], self.recorder.steps)
        return any(window.storage in needed for window in self.inputs.values())

    def _question(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Question | None:
        recorder = self.recorder
        positional, named = recorder.windows((tuple(args), dict(kwargs)))
        step = TracedOp(name, function, positional, named, (), recorder.module_path)
        return ask(step, recorder.steps, self.inputs, recorder.constants, self.on_device, self.values)


_OF_ROWS: dict[Any, Callable[..., torch.Tensor]] = {
    torch.ops.aten.nonzero.default: ChosenRows.nonzero,
    torch.ops.aten.bincount.default: ChosenRows.bincount,
}


@contextlib.contextmanager
def _module_paths(module: torch.nn.Module, path: str, recorder: Recorder) -> Iterator[None]:
    """Record the path of the module that runs, by hooks on the parts of this module, which is itself at this path."""
    handles = []
    for name, part in module.named_modules(prefix=path):

        def enter(_part: torch.nn.Module, _args: Any, name: str = name) -> None:
            recorder.module_paths.append(name)

        def leave(_part: torch.nn.Module, _args: Any, _result: Any) -> None:
            recorder.module_paths.pop()

        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Callable(torch.nn.Module):
    """The module and the function that calls it, as one module whose parameters functional_call can replace."""

    def __init__(self, module: torch.nn.Module, function: Function) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, inputs: dict[str, torch.Tensor]) -> Any:
        return self.function(self.module, inputs)


def trace(
    model: str,
    module: torch.nn.Module,
    function: Function,
    inputs: dict[str, torch.Tensor],
    held: Collection[str] = (),
) -> Trace:
    """The operations of `function(module, inputs)`, without computing any.

    model: its name, for messages. module: its parameters may be on the meta device; floats are traced as F32.
    function: returns a tensor or a tuple of tensors. inputs: their values matter only where the code asks for them.
    held: names of tensors that the weights have. A buffer that is not among them is a constant, as its module made it.
    Raises TraceError where the code asks for a value that only a real run has.
    """
    recorder = Recorder()
    environment = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=environment, static_shapes=True)
    path = function.path if isinstance(function, OfPart) else ""
    part = module.get_submodule(path)
    answers = _Answers(model, recorder, inputs, environment)
    # In inference mode, in which ComfyUI runs nodes, torch does not decompose composite operations.
    with torch.inference_mode(False), torch.no_grad():
        weights, fakes = fakes_of(mode, weights_in(part, path, held)), fakes_of(mode, inputs)
    with torch.inference_mode(False), mode, torch.no_grad():
        weight_windows = {name: recorder.window(tensor) for name, tensor in weights.items()}
        input_windows = {name: recorder.window(tensor) for name, tensor in fakes.items()}
        answers.on_device |= {window.storage for window in weight_windows.values()}
        answers.inputs |= input_windows
        operations = _OperationMode(recorder, answers)
        answers.rows.unrecorded = operations.paused
        replaced = {f"module.{name}": tensor for name, tensor in weights.items()}
        with (
            unchanged(part), _module_paths(part, path, recorder), recording(recorder, operations.silent),
            knowing(operations.constant, answers.on_input), operations, _AtomicMode(recorder, operations),
        ):  # fmt: skip
            try:
                # A layer that a module has under several names has the weights of the last, as when a file is loaded.
                result = torch.func.functional_call(_Callable(module, function), replaced, (fakes,), tie_weights=False)
                results = [x for x in tree_flatten(result)[0] if isinstance(x, torch.Tensor)]
                answers.rows.check_outputs(results)
            except (Refused, GuardOnDataDependentSymNode) as error:
                reason, *operation = error.args if isinstance(error, Refused) else ("it asks how many there are",)
                raise TraceError(
                    f"{model} cannot be traced: {recorder.module_path or model} chooses rows by values that the model "
                    f"computes, but {reason} ({operation[0] if operation else 'code'}), at {code_of(error)}. "
                    "Please report the model and the node that made it."
                ) from error
        outputs = tuple(map(recorder.window, results))
    return Trace(
        model, tuple(recorder.steps), input_windows, weight_windows, recorder.constants, outputs,
        tuple(recorder.storages), tuple(answers.questions),
    )  # fmt: skip


def decompose(step: TracedOp, storages: Sequence[int]) -> tuple[list[TracedOp], tuple[int, ...]] | None:
    """The steps that torch's own decomposition makes of one; None where torch has none.

    storages: elements of each storage of the trace. Returns also those with the storages of the new steps.
    """
    if not isinstance(step.function, torch._ops.OpOverload):
        return None
    function = torch._decomp.get_decompositions([step.function]).get(step.function)
    if function is None:
        return None
    recorder = Recorder()
    recorder.storages = list(storages)
    recorder.module_paths = [step.module_path]
    with torch.inference_mode(False), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        args, kwargs = tree_map(lambda x: recorder.fake(x) if isinstance(x, Window) else x, (step.args, step.kwargs))
        operations = _OperationMode(recorder)
        try:
            with operations, _AtomicMode(recorder, operations):
                results = tree_flatten(function(*args, **kwargs))[0]
        except (DataDependentOutputException, DynamicOutputShapeException):
            return None
        for result, out in zip(results, step.outputs, strict=False):
            copy = (recorder.window(result),)
            clone = torch.ops.aten.clone.default
            recorder.steps.append(TracedOp("aten.clone.default", clone, copy, {}, (out,), step.module_path))
    return recorder.steps, tuple(recorder.storages)
