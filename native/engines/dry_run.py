"""The engine of a dry run: models that record loads and runs instead of doing them, for a plan of the memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Literal

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..client import Runner
from ..lower import Lowered, LowerOptions
from ..placement import TORCH, Placement
from ..planning import Machine, Part, Plan, plan_of
from ..program import Program
from ..stored import kept_or_made, register
from ..trace import Question, Trace
from ..weights import WeightSet
from ..wire.messages import DryRun, ExternalModel, Step
from ..wire.turn import NO_TURN, Turn
from .ggml import GgmlModel
from .kept import Kept
from .model import Function

_WRITABLE = 16 << 20  # bytes
_ROW_BYTES = 1 << 10  # of an operation
_KEPT_BYTES = 48 << 20  # of programs, and of traces


class Recorder:
    """The steps that a workflow's models would take in the runner, each with the part of the workflow it belongs to.

    part: of the workflow, whose turn it is now; set by whoever walks the workflow.
    """

    def __init__(self, runner: Runner, machine: Machine) -> None:
        """runner: that does the dry runs. machine: that the workflow would run on."""
        self.runner = runner
        self.machine = machine
        self.part = Part("", "")
        self.steps: list[tuple[Step | ExternalModel, Part]] = []
        self.loaders: dict[str, str] = {}  # nodes, by the digest of a model's weights
        self._times = 1
        self._answers: list[bool] = []  # whether each estimate fitted, in the order of their steps

    def note(self, step: Step, maker: Part) -> None:
        """Add a step of a model that was made in the turn `maker`; one that repeats the last only counts as often."""
        before, part = self.steps[-1] if self.steps else (None, self.part)
        if isinstance(before, Step) and _step_key(before) == _step_key(step):
            self.steps[-1] = before, replace(part, times=part.times and self._times and part.times + self._times)
            return
        self._add(step, maker)

    @contextmanager
    def repeated(self, times: int) -> Iterator[None]:
        """Within it every step counts for so many; 0: it is not known how many."""
        before, self._times = self._times, self._times * times
        try:
            yield
        finally:
            self._times = before

    @contextmanager
    def within(self, part: Part) -> Iterator[None]:
        """Within it models are made in the turn of another part of the workflow."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def note_external(self, external: ExternalModel, loader: str) -> None:
        """Add the coming of a model in another process, which the node `loader` names."""
        self.steps.append((external, replace(self.part, loader=loader, loading=True)))

    def fits(self, step: Step, maker: Part) -> bool:
        """Whether the estimate of a step fits after the steps so far."""
        done = self._dry_run([*(each for each, _ in self.steps), step])
        measured = done.steps[-1].measured if done.error is None else None
        if measured is None:  # nor does it where there is more room
            return False
        self._add(step, maker)
        self._answers.append(measured.fits)
        return measured.fits

    def plan(self, notes: Sequence[str] = (), gaps: Sequence[str] = (), machine: Machine | None = None) -> Plan | None:
        """The plan of the steps so far; notes, gaps: as Plan's. Raises RunnerError, RunnerLost.

        machine: like the one that the steps were noted for, with other capacities. None where these lead to others.
        """
        self.machine = machine or self.machine
        done = self._dry_run([each for each, _ in self.steps])
        answers = [step.measured.fits for step in done.steps if step.measured is not None]
        if answers != self._answers[: len(answers)]:
            return None
        return plan_of(self.machine, self.steps, self.loaders, done, notes, gaps)

    @property
    def nbytes(self) -> int:
        """The memory of the steps, about."""
        found = (step.program for step, _ in self.steps if isinstance(step, Step))
        programs = {id(program): program for program in found if program}
        return len(self.steps) * _ROW_BYTES + sum(map(program_bytes, programs.values()))

    def _add(self, step: Step, maker: Part) -> None:
        part = replace(self.part, loader=maker.node, prefix=maker.prefix, loading=step.do == "load", times=self._times)
        self.steps.append((step, part))
        self.loaders[step.weights.digest] = maker.node

    def _dry_run(self, steps: Sequence[Step | ExternalModel]) -> DryRun:
        return self.runner.dry_run(self.machine.capacity, steps, self.machine.foreign)


def _step_key(step: Step) -> tuple[Hashable, ...]:
    return step.do, step.weights.digest, step.placement, step.program.digest if step.program else None


def unwritten_zeros(shape: Sequence[int]) -> torch.Tensor:
    """F32 zeros that take memory only where they are written; those of over 16 MiB take none and cannot be written."""
    if 4 * prod(shape) > _WRITABLE:
        return torch.zeros(()).expand(tuple(shape))
    return torch.from_numpy(np.zeros(tuple(shape), np.float32))


@register
@dataclass(frozen=True)
class Counted:
    """A lowered function as a dry run needs it."""

    programs: tuple[Program, ...]  # without values
    questions: tuple[Question, ...]  # as Lowered's
    known: Mapping[int, np.ndarray]  # results that follow from shapes alone, such as grids, by number


def _counted(lowered: Lowered) -> Counted:
    last = lowered.parts[-1].program
    results = {number: _constant_result(last, output.tensor) for number, output in enumerate(last.outputs)}
    known = {
        number: values.reshape(last.outputs[number].shape) for number, values in results.items() if values is not None
    }
    return Counted(tuple(part.program.without_values() for part in lowered.parts), lowered.questions, known)


def _constant_result(program: Program, tensor: int) -> np.ndarray | None:
    """The values of a tensor that is a constant, whole and in order, maybe of another type."""
    row = program.tensors[tensor]
    if row.kind == "constant":
        return program.constants[row.name].astype(np.float32)
    if row.kind == "op" and row.name in ("cast", "cont", "reshape"):
        return _constant_result(program, row.sources[0])
    return None


def program_bytes(program: Program) -> int:
    """The memory of a program without values, about."""
    return len(program.tensors) * _ROW_BYTES


def _counted_bytes(counted: Counted) -> int:
    return sum(map(program_bytes, counted.programs)) + sum(values.nbytes for values in counted.known.values())


def _trace_bytes(traced: Trace) -> int:
    return len(traced.steps) * _ROW_BYTES + sum(values.nbytes for values in traced.constants.values())


# So that a workflow that was planned before is planned at once.
_programs: Kept[Counted] = Kept(_KEPT_BYTES, _counted_bytes)
_traces: Kept[Trace] = Kept(_KEPT_BYTES, _trace_bytes)


class DryRunModel(GgmlModel):
    """Records its loads and runs; their results are zeros."""

    def __init__(
        self, module: torch.nn.Module, weights: WeightSet, placement: Placement, options: LowerOptions,
        recorder: Recorder,
    ) -> None:  # fmt: skip
        """module: as for Model."""
        super().__init__(module, weights, placement, replace(options, values=False), recorder.runner)
        self._recorder = recorder
        self._maker = recorder.part
        self._sets = {weights.digest: weights}

    @property
    def can_join(self) -> bool:
        """As Model.can_join, of the engine that the placement names."""
        return self.placement.engine != TORCH

    def counted(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> Counted:
        """As GgmlModel.lowered, once for all plans of the same files, shapes and options."""
        shapes = tuple((name, tuple(x.shape), x.dtype) for name, x in inputs.items())
        types = tuple((name, str(each.dtype)) for name, each in self.weights.arrays.items())
        whole = (self.file_weights.digest, self.lower_options, key, shapes, self._patched, types)
        known = _programs.get(whole, inputs)
        if known is None:
            with _disable_current_modes():  # a guard of sizes would count tensors that a trace only imagines
                known = _programs.put(whole, self._counted(key, shapes, function, inputs))
        return known

    def _counted(
        self, key: Hashable, shapes: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]
    ) -> Counted:  # fmt: skip
        whole = key, shapes, *self._patched[1:]
        made = partial(self._lowered_now, whole, function, inputs)
        with self._lock:
            return kept_or_made(self._entry("counted", function, inputs), inputs, lambda: _counted(made()))

    def traced(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> Trace:
        """As GgmlModel.traced, once for all models of the same parameters, as their modules are the same."""
        whole = self.identity, key
        return _traces.get(whole, inputs) or _traces.put(whole, super().traced(key, function, inputs))

    def run(
        self,
        key: Hashable,
        function: Function,
        inputs: Mapping[str, torch.Tensor],
        interrupted: Callable[[], bool] | None = None,
        progress: Callable[[float], None] | None = None,
        turn: Turn = NO_TURN,
    ) -> tuple[torch.Tensor, ...]:
        """As Model.run, but record it; returns zeros where values are not known from shapes."""
        counted = self.counted(key, function, inputs)
        for program in counted.programs:
            self._note("run", program=program)
        return tuple(
            torch.from_numpy(counted.known[number]) if number in counted.known else unwritten_zeros(output.shape)
            for number, output in enumerate(program.outputs)
        )

    def fits(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> bool:
        """As Model.fits, after the steps noted so far."""
        programs = self.counted(key, function, inputs).programs
        steps = [Step("estimate", self.weights, self.placement, program) for program in programs]
        return all(self._recorder.fits(step, self._maker) for step in steps)

    def load(
        self, progress: Callable[[int, int], None] | None = None, interrupted: Callable[[], bool] | None = None
    ) -> None:
        """Record it."""
        self._note("load")

    def release(self) -> None:
        """Record it."""
        self._recorder.note(Step("release", self.weights, self.placement), self._maker)

    def unload(self, digest: str | None = None) -> None:
        """Record it."""
        self._recorder.note(Step("unload", self._sets[digest or self.weights.digest], self.placement), self._maker)

    def _note(self, do: Literal["load", "run"], program: Program | None = None) -> None:
        self._sets[self.weights.digest] = self.weights
        self._recorder.note(Step(do, self.weights, self.placement, program), self._maker)
