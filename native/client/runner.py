"""The runner as ComfyUI sees it: thread-safe, started when first needed, brought back when it dies."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from ..output_check import check_outputs
from ..placement import Placement, as_placement
from ..program import Program
from ..threads import wanted_threads
from ..weights.weight_set import WeightSet
from ..wire.messages import (
    Device,
    DeviceInfo,
    DryRun,
    Estimate,
    ExternalModel,
    LoadReport,
    MemoryReport,
    Step,
    device,
    memory_report,
)
from .connection import ProcessDied, RunnerProcess, final_reply
from .errors import RunnerError, RunnerLost, from_reply
from .load_request import dry_run_of, manifest, step_requests, to_wire
from .tensors import read_outputs, write_inputs

log = logging.getLogger(__name__)
_TIMEOUT = 600.0  # seconds without any sign of progress: a first use may compile shaders for minutes
_QUERY_TIMEOUT = 60.0
_WITHOUT_VULKAN = {"GGML_DISABLE_VULKAN": "1"}
_TIMEOUT_VARIABLE = "GGML_RUNNER_TIMEOUT"
Result = TypeVar("Result")
Cancel = Callable[[], bool] | None


class _Missing(Exception):
    """The runner answered that it does not hold something; `reply` says what."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(reply["message"])
        self.reply = reply


class Runner:
    """The runner process behind calls. One call works at a time; `devices` and `memory` answer meanwhile.

    options: the process's arguments (see runner/__main__.py), such as `--threads N`.
    environment: variables it gets besides ours.
    timeout: seconds without progress after which the process counts as dead (default 600, or GGML_RUNNER_TIMEOUT).
    """

    def __init__(
        self,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.trouble: str | None = None  # why devices may be missing, for the person at the node
        self.peaks: dict[str, int] = {}  # by device: the most bytes held since the last load or run began
        self._options = options
        self._environment = dict(environment or {})
        self._timeout = timeout if timeout is not None else float(os.environ.get(_TIMEOUT_VARIABLE, _TIMEOUT))
        self._process: RunnerProcess | None = None
        self._starting = threading.Lock()
        self._working = threading.Lock()
        atexit.register(self.close)

    def devices(self) -> list[Device]:
        """Every device of this machine with its memory; loads the drivers, in the runner."""
        reply = self._with_process(lambda process: self._query(process, {"do": "devices"}))
        return [device(each) for each in reply["devices"]]

    def memory(self) -> MemoryReport:
        """What the runner holds, in exact bytes."""
        return memory_report(self._with_process(lambda process: self._query(process, {"do": "memory"})))

    def load(
        self,
        weights: WeightSet,
        placement: Placement | str,
        progress: Callable[[int, int], None] | None = None,
        interrupted: Cancel = None,
    ) -> LoadReport:
        """Bring weights where they live; nothing happens where they are there. `progress` gets bytes done and in all.

        Raises RunnerError, OutOfMemory, RunnerLost, Interrupted.
        """
        with self._working:
            self.peaks = {}
            reply = self._with_process(
                lambda process: self._load(process, weights, as_placement(placement), interrupted, progress)
            )
        return LoadReport(**reply)

    def unload(self, weights_digest: str, placement: Placement | str) -> None:
        """Free a weight set, placed so, its built program and its compute buffer; files that another set uses stay."""
        with self._working:
            process = self._process
            if process and process.alive:
                with suppress(ProcessDied):
                    self._exchange(
                        process, {"do": "unload", "digest": weights_digest, **to_wire(as_placement(placement))}
                    )

    def run(
        self,
        weights: WeightSet,
        placement: Placement | str,
        program: Program,
        inputs: dict[str, np.ndarray],
        interrupted: Cancel = None,
        progress: Callable[[float], None] | None = None,
        checked: bool = True,
    ) -> list[np.ndarray]:
        """Run a program on weights, loading both where the runner does not hold them; the outputs in float32.

        `progress` gets the fraction done. With `checked`, a result that cannot be one is an error.
        Raises RunnerError, OutOfMemory, RunnerLost, Interrupted.
        """
        with self._working:
            self.peaks = {}
            return self._with_process(
                lambda process: self._run(
                    process, weights, as_placement(placement), program, inputs, interrupted, progress, checked
                )
            )

    def estimate(self, name: str, placement: Placement | str, program: Program) -> Estimate:
        """What a program of the model called `name` takes there; nothing is loaded or allocated.

        Raises RunnerError where the device cannot compute it at all, RunnerLost.
        """
        with self._working:
            return Estimate(
                **self._with_process(lambda process: self._estimate(process, name, as_placement(placement), program))
            )

    def dry_run(
        self, capacity: Mapping[str, int], steps: Sequence[Step | ExternalModel], foreign: Sequence[DeviceInfo] = ()
    ) -> DryRun:
        """What these calls, one after the other, would take of devices with so many bytes; nothing is loaded.

        imagined: those of the devices that belong to another machine.
        Raises RunnerError for a device that is not there, RunnerLost.
        """
        programs = {step.program.digest: step.program for step in steps if isinstance(step, Step) and step.program}
        request = {
            "do": "dry_run",
            "capacity": dict(capacity),
            "foreign": [asdict(each) for each in foreign],
            **step_requests(steps),
        }
        with self._working:
            return dry_run_of(self._with_process(lambda process: self._dry_run(process, request, programs)))

    def profile(
        self, weights: WeightSet, placement: Placement | str, program: Program, inputs: dict[str, np.ndarray]
    ) -> dict[int, float]:
        """Seconds of each operation of a program, by its index in the table, each computed alone and waited for.

        Raises as `run` does.
        """
        with self._working:
            reply = self._with_process(
                lambda process: self._computed("profile", process, weights, as_placement(placement), program, inputs)
            )
        return {int(index): seconds for index, seconds in reply["seconds"].items()}

    def close(self) -> None:
        """End the process; the next call starts another."""
        with self._starting:
            process, self._process = self._process, None
        if process:
            process.close()

    @property
    def pid(self) -> int | None:
        """The process id of the runner while it lives."""
        process = self._process
        return process.pid if process and process.alive else None

    def _with_process(self, attempt: Callable[[RunnerProcess], Result]) -> Result:
        """Do `attempt` with a living process; if that dies, once more with a new one."""
        try:
            process = self._living()
            return attempt(process)
        except ProcessDied as first:
            self._after_exit(process, first)
        try:
            process = self._living()
            return attempt(process)
        except ProcessDied as second:
            self._after_exit(process, second)
            raise RunnerLost(
                f"The process that runs the models ended twice over the same request. {second}\n"
                "Update the graphics driver, choose another device in the node, or use a smaller picture or file."
            ) from second

    def _living(self) -> RunnerProcess:
        with self._starting:
            if self._process and not self._process.alive:
                self._process.close()
                self._process = None
            if not self._process:
                self._process = RunnerProcess(self._options, self._environment)
            return self._process

    def _after_exit(self, process: RunnerProcess, death: ProcessDied) -> None:
        if process.closed:
            raise RunnerError("The runner was closed while it worked on this.") from death
        with self._starting:  # also one that not even SIGKILL ends yet, held up in a driver
            if self._process is process:
                self._process = None
        process.close()
        log.warning("The process that runs the models ended: %s", death)
        if process.loading_drivers and self.trouble is None:
            self.trouble = (
                "Vulkan is switched off until ComfyUI restarts: its driver ended the process that loaded it. "
                "Update or reinstall the graphics driver."
            )
            self._environment |= _WITHOUT_VULKAN
            log.warning("%s", self.trouble)

    def _run(
        self,
        process: RunnerProcess,
        weights: WeightSet,
        placement: Placement,
        program: Program,
        inputs: dict[str, np.ndarray],
        interrupted: Cancel,
        progress: Callable[[float], None] | None,
        checked: bool,
    ) -> list[np.ndarray]:
        reply = self._computed("run", process, weights, placement, program, inputs, interrupted, progress)
        outputs = read_outputs(process.arena, program)
        if checked:
            check_outputs(weights, placement.device, inputs, outputs, reply["finite"])
        return outputs

    def _estimate(self, process: RunnerProcess, name: str, placement: Placement, program: Program) -> dict[str, Any]:
        request = {"do": "estimate", "name": name, "program": program.digest, **to_wire(placement)}
        try:
            return self._exchange(process, request)
        except _Missing:
            self._exchange(process, {"do": "program", "digest": program.digest}, program.to_bytes())
            return self._exchange(process, request)

    def _dry_run(
        self, process: RunnerProcess, request: dict[str, Any], programs: Mapping[str, Program]
    ) -> dict[str, Any]:
        for _ in programs:
            try:
                return self._exchange(process, request)
            except _Missing as missing:
                program = programs[missing.reply["digest"]]
                self._exchange(process, {"do": "program", "digest": program.digest}, program.to_bytes())
        return self._exchange(process, request)

    def _computed(
        self,
        do: str,
        process: RunnerProcess,
        weights: WeightSet,
        placement: Placement,
        program: Program,
        inputs: dict[str, np.ndarray],
        interrupted: Cancel = None,
        progress: Callable[[float], None] | None = None,
    ) -> dict[str, Any]:
        """The answer to a request that computes, with all it needs sent first where the runner does not hold it."""
        report = None if progress is None else lambda done, _total: progress(done)
        while True:
            slots = write_inputs(process.arena, program, inputs)
            request = {
                "do": do,
                "digest": weights.digest,
                **to_wire(placement),
                "program": program.digest,
                "inputs": slots,
                "arena": process.arena.size,
            }
            try:
                return self._exchange(process, request, interrupted=interrupted, progress=report)
            except _Missing as missing:
                if missing.reply["what"] == "weights":
                    self._load(process, weights, placement, interrupted, None)
                else:
                    self._exchange(process, {"do": "program", "digest": program.digest}, program.to_bytes())

    def _load(
        self,
        process: RunnerProcess,
        weights: WeightSet,
        placement: Placement,
        interrupted: Cancel,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, Any]:
        request: dict[str, Any] = {"do": "load", "digest": weights.digest, **to_wire(placement)}
        arrays: dict[str, np.ndarray] = {}
        while True:
            try:
                return self._exchange(process, request, interrupted=interrupted, progress=progress)
            except _Missing as missing:
                if missing.reply["what"] == "weights":
                    fields, arrays = manifest(weights)
                    request |= fields
                else:
                    for digest in missing.reply["digests"]:
                        self._send_array(process, placement.device, digest, arrays[digest])

    def _send_array(self, process: RunnerProcess, device: str, digest: str, array: np.ndarray) -> None:
        arena = process.arena
        arena.reserve(array.nbytes)
        np.frombuffer(arena.memory, array.dtype, array.size)[:] = array.reshape(-1)
        request = {"do": "array", "device": device, "digest": digest, "nbytes": array.nbytes, "arena": arena.size}
        self._exchange(process, request)

    def _query(self, process: RunnerProcess, request: dict[str, Any]) -> dict[str, Any]:
        return self._exchange(process, request, timeout=min(_QUERY_TIMEOUT, self._timeout))

    def _exchange(
        self,
        process: RunnerProcess,
        request: dict[str, Any],
        payload: bytes = b"",
        interrupted: Cancel = None,
        progress: Callable[..., None] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Send a request and wait for its answer; raises ProcessDied, _Missing, Interrupted and the answer's error."""
        patience = timeout or self._timeout
        watchdog = threading.Timer(patience, process.kill)  # a process that reads nothing would block the writing
        watchdog.start()
        try:
            call = process.send(request, payload)
        finally:
            watchdog.cancel()
        try:
            reply = final_reply(process, call, patience, interrupted, progress)
        except ProcessDied:
            raise
        except BaseException:  # out of `interrupted` or `progress`: the runner must be idle before the next call
            process.interrupt(call)
            with suppress(ProcessDied):
                final_reply(process, call, patience, None, None)
            raise
        for name, nbytes in reply.get("peaks", {}).items():
            self.peaks[name] = max(nbytes, self.peaks.get(name, 0))
        if "done" in reply:
            return reply["done"]
        if reply["error"]["kind"] == "missing":
            raise _Missing(reply["error"])
        raise self._explained(from_reply(reply["error"]))

    def _explained(self, error: Exception) -> Exception:
        if self.trouble and type(error) is RunnerError:
            return RunnerError(f"{error} {self.trouble}")
        return error


_shared: Runner | None = None
_shared_lock = threading.Lock()


def another() -> Runner:
    """A runner as the user wants them; raises RunnerError when their number of threads is none."""
    threads = wanted_threads()
    return Runner(("--threads", str(threads)) if threads else ())


def shared() -> Runner:
    """The one runner of this process that computes; raises as `another`."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = another()
        return _shared
