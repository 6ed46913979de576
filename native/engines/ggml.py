"""The ggml engine: a module traced, lowered and computed by the runner, once per shape and option."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import astuple, replace
from functools import partial
from time import monotonic

import torch

from ..client import Estimate, Runner, RunnerError, RunnerLost, shared
from ..heap import uncollected
from ..lower import Lowered, LowerOptions, WeightType, lower
from ..placement import Placement
from ..stored import Entry, Storable, entry_of, kept_or_made
from ..trace import Trace, trace
from ..trace.values import HostStorages
from ..weights import WeightSet
from ..wire.turn import NO_TURN, Turn
from .kept import Kept
from .model import Function, Model


class GgmlModel(Model):
    """Runs functions of a module on a device of the runner, traced once per shape and option."""

    def __init__(
        self, module: torch.nn.Module, weights: WeightSet, placement: Placement | str,
        options: LowerOptions | None = None, runner: Runner | None = None,
    ) -> None:  # fmt: skip
        """module: as for Model."""
        super().__init__(module, weights, placement)
        self.options = options or LowerOptions()
        self.runner = runner or shared()
        self._traces: Kept[Trace] = Kept()
        self._programs: Kept[Lowered] = Kept()

    @property
    def can_join(self) -> bool:
        """As Model.can_join."""
        return True

    @property
    def lower_options(self) -> LowerOptions:
        """Those of this model, in which the activations of the models that are joined to it have room too."""
        joined = [each.options.activation_scale for each in self._joined if isinstance(each, GgmlModel)]
        return replace(self.options, activation_scale=max([self.options.activation_scale, *joined]))

    def lowered(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> Lowered:
        """The program for inputs of these shapes; traced and lowered when it is not known yet.

        key: every value that steers a branch in `function`, apart from those in the inputs, which a trace notes.
        Raises TraceError and LowerError.
        """
        shapes = tuple((name, tuple(x.shape), x.dtype) for name, x in inputs.items())
        with self._lock:
            known = self._programs.get((key, shapes, self._patched), inputs)
            if known is not None:
                return known
            made = partial(self._lowered_now, (key, shapes, *self._patched[1:]), function, inputs)
            lowered = kept_or_made(self._entry("lowered", function, inputs), inputs, made)
            return self._programs.put((key, shapes, self._patched), lowered)

    def _lowered_now(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> Lowered:
        with uncollected():
            return lower(self.traced(key, function, inputs), self._types(), self.lower_options, self._branches)

    def _types(self) -> dict[str, WeightType]:
        arrays = self.weights.arrays
        turned = {n: each.rotation for n, each in self.weights.parameters.items() if n not in arrays}
        return {
            name: WeightType(type_, shape, turned.get(name, 0))
            for name, (shape, type_) in self.weights.shapes().items()
        }

    def _entry(self, kind: str, function: Function, inputs: Mapping[str, torch.Tensor]) -> Entry | None:
        """Where the program of a function is kept for the next session; None: with patches, or others joined, not."""
        if not isinstance(function, Storable) or self.weights is not self.file_weights or any(self._patched):
            return None
        shapes = [(name, list(x.shape), str(x.dtype)) for name, x in inputs.items()]
        types = [(name, *astuple(each)) for name, each in self._types().items()]
        return entry_of(function, (kind, self.weights.name, shapes, types, astuple(self.lower_options)))

    def traced(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> Trace:
        """The trace of a function; key: as for `lowered`, and the inputs' shapes. Raises TraceError."""
        known = self._traces.get(key, inputs)
        if known is not None:
            return known
        held = self.file_weights.shapes()
        return self._traces.put(key, trace(self.weights.name, self.module, function, dict(inputs), held))

    def run(
        self,
        key: Hashable,
        function: Function,
        inputs: Mapping[str, torch.Tensor],
        interrupted: Callable[[], bool] | None = None,
        progress: Callable[[float], None] | None = None,
        turn: Turn = NO_TURN,
    ) -> tuple[torch.Tensor, ...]:
        """Compute as Model.run; `function` is traced once per key, shapes of the inputs, and answers it asks of them.

        Inputs of one dimension or of whole numbers are the host's, which computes what depends on them alone.
        Raises TraceError, LowerError, RunnerError, and Interrupted once `interrupted()` is true.
        """
        parts = self.lowered(key, function, inputs).parts
        storages, peaks = HostStorages(), Counter[str]()
        seconds: dict[str, float] = {}
        for number, part in enumerate(parts):
            began = monotonic()
            arrays = part.host(inputs, storages)
            for island in part.islands:
                name = f"{island.operation} in {island.module_path or self.weights.name}"
                seconds[name] = (monotonic() - began) / len(part.islands)
            for name in part.device_inputs:
                arrays[name] = inputs[name].detach().to("cpu", torch.float32).contiguous().numpy()
            report = progress and partial(_report_part, progress, number, len(parts))
            results = self.runner.run(
                self.weights, self.placement, part.program, arrays, interrupted, report,
                turn=turn if len(parts) == 1 else NO_TURN,
            )  # fmt: skip
            peaks |= Counter(self.runner.peaks)
            for window, result in zip(part.kept, results, strict=False):
                storages.flat[window.storage] = torch.from_numpy(result).to(window.dtype)
        self.peaks, self.island_seconds = dict(peaks), seconds
        return tuple(torch.from_numpy(result) for result in results)

    def fits(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> bool:
        """As Model.fits; raises RunnerLost."""
        try:
            return self.estimate(key, function, inputs).fits
        except RunnerLost:
            raise
        except RunnerError:
            return False

    def estimate(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> Estimate:
        """Estimate the memory of `run` as Runner.estimate, of the part that takes most; computes nothing."""
        parts = self.lowered(key, function, inputs).parts
        estimates = [self.runner.estimate(self.weights.name, self.placement, part.program) for part in parts]
        return max(estimates, key=lambda each: (not each.fits, each.compute + each.constants))

    def load(
        self, progress: Callable[[int, int], None] | None = None, interrupted: Callable[[], bool] | None = None
    ) -> None:
        """As Model.load; raises what Runner.load does."""
        self.runner.load(self.weights, self.placement, progress, interrupted)
        self.peaks = self.runner.peaks

    def release(self) -> None:
        """As Model.release, in the runner."""
        self.runner.release(self.weights.digest, self.placement)

    def unload(self, digest: str | None = None) -> None:
        """As Model.unload, in the runner."""
        self.runner.unload(digest or self.weights.digest, self.placement)


def _report_part(progress: Callable[[float], None], number: int, parts: int, done: float) -> None:
    """Report what is done of one part of several."""
    progress((number + done) / parts)
