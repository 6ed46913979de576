"""Runs programs on a device in a process that may die or hang, and says how that ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import TypeVar

import numpy as np

from ..client import Runner
from ..client.connection import ProcessHung
from ..errors import Interrupted, RunnerError, RunnerLost
from ..placement import CPU, DEVICE, RAM, Placement
from ..weights.weight_set import WeightSet
from ..wire.messages import Device
from .blocks import Work
from .random_weights import write_weights
from .report import Verdict

_WITHOUT_VULKAN = {"GGML_DISABLE_VULKAN": "1"}
Result = TypeVar("Result")
_ENDING = 3.0  # seconds that an interrupted process has before it is ended


class Stopped(Exception):
    """A run that did not end well. The text says how."""

    def __init__(self, verdict: Verdict, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict


@dataclass
class Clock:
    """The time that is left. limit: seconds that one run may take without a sign of progress."""

    ends: float  # as monotonic() has it
    limit: float
    interrupted: Callable[[], bool] = lambda: False

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - monotonic()

    def look(self, needed: float = 0.0) -> None:
        """Raise Interrupted where the user wants no more, and Stopped where less than `needed` seconds are left."""
        if self.interrupted():
            raise Interrupted("the card check was interrupted")
        if self.left <= needed:
            raise Stopped(Verdict.LEFT_OUT, "the time was up")


@dataclass
class Trial:
    """One device under one setting of its driver. environment: of its process. folder: for files of weights."""

    device: str
    folder: Path
    clock: Clock
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()  # of the runner
    _runner: Runner | None = None

    def __post_init__(self) -> None:
        self._placement = Placement(self.device, RAM if self.device == CPU else DEVICE)

    def run(self, work: Work) -> list[np.ndarray]:
        """The outputs of a program; raises Stopped and Interrupted."""
        with self._weights(work) as weights:
            return self._call(lambda runner: runner.run(
                weights, self._placement, work.program, {}, self._enough, checked=False
            ))  # fmt: skip

    def repeat(self, work: Work, times: int) -> tuple[list[list[np.ndarray]], list[float]]:
        """The outputs and seconds of several runs, of which the first also loads and compiles; raises as `run`."""
        with self._weights(work) as weights:

            def once(runner: Runner) -> list[np.ndarray]:
                return runner.run(weights, self._placement, work.program, {}, self._enough, checked=False)

            outputs, seconds = [], []
            for _ in range(times):
                start = perf_counter()
                outputs.append(self._call(once))
                seconds.append(perf_counter() - start)
            return outputs, seconds

    def rows(self, work: Work, times: int) -> dict[int, float]:
        """The seconds of each row of a program, the least of several times; raises as `run`."""
        with self._weights(work) as weights:
            found: dict[int, float] = {}
            for _ in range(times + 1):
                self.clock.look()
                seconds = self._call(lambda runner: runner.profile(weights, self._placement, work.program, {}))
                found = {row: min(taken, found.get(row, taken)) for row, taken in seconds.items()}
            return found

    def load(self, work: Work) -> float:
        """Seconds that its weights take to come from the page cache to the device; raises as `run`."""
        with self._weights(work) as weights:
            start = perf_counter()
            self._call(lambda runner: runner.load(weights, self._placement, None, self._enough))
            return perf_counter() - start

    def described(self) -> Device:
        """The device as the driver describes it; raises as `run`, also where it is not there."""
        found = self._call(lambda runner: runner.devices())
        device = next((each for each in found if each.name == self.device), None)
        if device is None:
            there = "; ".join(f"{each.name} ({each.description})" for each in found)
            raise Stopped(Verdict.REFUSED, f"there is no device {self.device}. There are: {there}")
        return device

    def close(self) -> None:
        """End the process."""
        runner, self._runner = self._runner, None
        if runner:
            runner.close()

    @contextmanager
    def _weights(self, work: Work) -> Iterator[WeightSet]:
        """The weights of a program in a file, which is gone afterwards, as they are from the device."""
        self.clock.look()
        path = self.folder / f"{work.program.digest[:16]}.weights"
        weights = write_weights(path, work)
        try:
            yield weights
        finally:
            if self._runner:
                with suppress(RunnerError):
                    self._runner.unload(weights.digest, self._placement)
            with suppress(OSError):  # Windows keeps a file that a process maps which does not end
                path.unlink()

    def _call(self, function: Callable[[Runner], Result]) -> Result:
        """The runner's answer, within the time there is."""
        self.clock.look()
        if self._runner is None:
            environment = {**(_WITHOUT_VULKAN if self.device == CPU else {}), **self.environment}
            self._runner = Runner(self.options, environment, attempts=1)
        runner = self._runner
        runner.timeout = min(self.clock.limit, max(1.0, self.clock.left))
        try:
            return function(runner)
        except Interrupted:
            self.clock.look()
            raise
        except RunnerLost as error:
            self._runner = None
            runner.close()
            hung = isinstance(error.__cause__, ProcessHung)
            if hung and runner.timeout < self.clock.limit:  # it may only have been slow
                raise Stopped(
                    Verdict.LEFT_OUT, f"the time was up after {runner.timeout:.0f} s without a sign"
                ) from error
            raise Stopped(Verdict.HUNG if hung else Verdict.DIED, _without_stacks(str(error))) from error
        except RunnerError as error:
            if self.clock.interrupted():  # and the process did not end by itself
                raise Interrupted("the card check was interrupted") from error
            raise Stopped(Verdict.REFUSED, str(error)) from error

    def _enough(self) -> bool:
        """Whether to end a run early; one that does not is ended with its process."""
        enough = self.clock.interrupted() or self.clock.left <= 0
        if enough and self._runner:
            timer = threading.Timer(_ENDING, self._runner.close)
            timer.daemon = True
            timer.start()
        return enough


def _without_stacks(text: str) -> str:
    """How a process ended, without where its Python was."""
    lines = []
    for line in text.splitlines():
        if line.startswith(("Thread 0x", "Current thread 0x", "Extension modules")):
            break
        if line.strip():
            lines.append(line)
    return "\n".join(lines)
