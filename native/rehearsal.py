"""Models that note what they are asked to do instead of doing it, for a plan of what a workflow takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from typing import Any

import torch

from .client import Runner
from .client.rehearsal import Rehearsal, Step
from .lower import Lowered, LowerOptions
from .model import Function, RemoteModel
from .placement import Placement
from .weights import WeightSet

_KEPT = 32  # programs, so that a workflow that was planned before is planned at once


class Recorder:
    """The steps that a workflow's models would take in the runner, each with the part of the workflow it belongs to.

    part: what is being done now; set by whoever walks the workflow.
    """

    def __init__(self, runner: Runner, capacity: Mapping[str, int]) -> None:
        """capacity: bytes of every device that may be used."""
        self.runner = runner
        self.capacity = capacity
        self.part: Any = None
        self.steps: list[Step] = []
        self.parts: list[Any] = []

    def note(self, step: Step) -> None:
        """Add a step; one that only repeats what was done is left out."""
        if self.steps and _spoken(self.steps[-1]) == _spoken(step):
            return
        self.steps.append(step)
        self.parts.append(self.part)

    def rehearsed(self, *further: Step) -> Rehearsal:
        """What the steps so far, and these, lead to; raises RunnerError, RunnerLost."""
        return self.runner.rehearse(self.capacity, [*self.steps, *further])


def _spoken(step: Step) -> tuple[Hashable, ...]:
    return step.do, step.weights.digest, step.placement, step.program.digest if step.program else None


recording: ContextVar[Recorder | None] = ContextVar("recording", default=None)

_programs: OrderedDict[Hashable, Lowered] = OrderedDict()


class RehearsedModel(RemoteModel):
    """Notes its runs with a recorder; their results are zeros."""

    rehearsed = True

    def __init__(
        self, module: torch.nn.Module, weights: WeightSet, placement: Placement, options: LowerOptions,
        recorder: Recorder,
    ) -> None:  # fmt: skip
        """module: as for Model."""
        super().__init__(module, weights, placement, options, recorder.runner)
        self._recorder = recorder
        self._sets = {weights.digest: weights}

    def lowered(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> Lowered:
        """As RemoteModel, from what was lowered for an earlier plan where that is the same."""
        shapes = tuple((name, tuple(x.shape), x.dtype) for name, x in inputs.items())
        ranks = tuple((name, branch.down.shape[0]) for name, branch in self._branches.items())
        whole = (self.file_weights.digest, self.options, key, shapes, ranks)
        if whole not in _programs:
            _programs[whole] = super().lowered(key, function, inputs)
            if len(_programs) > _KEPT:
                _programs.popitem(last=False)
        _programs.move_to_end(whole)
        return _programs[whole]

    def run(
        self,
        key: Hashable,
        function: Function,
        inputs: Mapping[str, torch.Tensor],
        cancelled: Callable[[], bool] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Zeros in the shapes of what Model.run returns; they take no memory."""
        program = self.lowered(key, function, inputs).program
        self._note("run", program=program)
        return tuple(torch.zeros(()).expand(output.shape) for output in program.outputs)

    def fits(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> bool:
        """As Model.fits, after the steps noted so far."""
        program = self.lowered(key, function, inputs).program
        done = self._recorder.rehearsed(Step("measure", self.weights, self.placement, program))
        measured = done.steps[-1].measured if done.error is None else None
        return measured is not None and measured.fits

    def load(
        self, progress: Callable[[int, int], None] | None = None, cancelled: Callable[[], bool] | None = None
    ) -> None:
        """Notes it."""
        self._note("load")

    def unload(self, digest: str | None = None) -> None:
        """Notes it."""
        self._recorder.note(Step("unload", self._sets[digest or self.weights.digest], self.placement))

    def _note(self, do: Any, **what: Any) -> None:
        self._sets[self.weights.digest] = self.weights
        self._recorder.note(Step(do, self.weights, self.placement, **what))
