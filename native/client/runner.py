"""The client of the runner process: thread-safe; starts it when it is first needed, and again when it dies."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import TypeVar

import numpy as np

from ..errors import IsInterrupted, Missing, NoDevice, RunnerError, RunnerLost
from ..ggml_build import has_ggml, missing_words
from ..output_check import check_outputs
from ..placement import Placement, as_placement
from ..program import Program
from ..quota import check_quota, current_quota
from ..threads import wanted_threads
from ..weights.weight_set import WeightSet
from ..wire.failures import Failure, exception
from ..wire.frames import ProtocolError
from ..wire.messages import (
    Device,
    DeviceInfo,
    Devices,
    DevicesRequest,
    Done,
    DryRun,
    Estimate,
    EstimateRequest,
    ExternalModel,
    LoadReport,
    LoadRequest,
    MemoryReport,
    MemoryRequest,
    ProfileReply,
    ProfileRequest,
    ProgramRequest,
    Query,
    ReleaseRequest,
    Request,
    RunReply,
    Step,
    UnloadRequest,
)
from ..wire.shared_memory import Arena
from ..wire.turn import NO_TURN, Turn
from .connection import OnProgress, ProcessDied, RunnerProcess
from .load_request import Supplies, dry_run_request
from .tensors import read_outputs, write_array, write_inputs

log = logging.getLogger(__name__)
_TIMEOUT = 600.0  # seconds without any sign of progress: a first use may compile shaders for minutes
_QUERY_TIMEOUT = 60.0
_WITHOUT_VULKAN = {"GGML_DISABLE_VULKAN": "1"}
_TIMEOUT_VARIABLE = "GGML_RUNNER_TIMEOUT"
Result = TypeVar("Result")


class Runner:
    """Calls that the runner process answers. One call works at a time; `devices` and `memory` answer meanwhile.

    options: the process's arguments (see runner/__main__.py), such as `--threads N`.
    environment: variables it gets besides ours.
    timeout: seconds without progress after which the process counts as dead (default 600, or GGML_RUNNER_TIMEOUT).
    attempts: how often a request is tried that ends the process.
    """

    def __init__(
        self,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
        attempts: int = 2,
    ) -> None:
        self.trouble: str | None = None  # why devices may be missing, for the person at the node
        self.unusable: tuple[str, ...] = ()  # devices that `devices` leaves out, in words
        self.peaks: dict[str, int] = {}  # by device: the most bytes held since the last load or run began
        self._met: set[str] = set()  # devices that were there once
        self._driver_deaths = 0  # processes that ended while they loaded drivers, one after the other
        self._options = options
        self._attempts = attempts
        self._environment = dict(environment or {})
        self.timeout = timeout if timeout is not None else float(os.environ.get(_TIMEOUT_VARIABLE, _TIMEOUT))
        self._process: RunnerProcess | None = None
        self._starting = threading.Lock()
        self._working = threading.Lock()
        atexit.register(self.close)

    def devices(self) -> list[Device]:
        """Every device of this machine with its memory; loads the drivers, in the runner."""
        found = self._query(DevicesRequest(), Devices)
        if self._gone(found) and not self._working.locked():
            self.close()
            found = self._query(DevicesRequest(), Devices)
        self._driver_deaths = 0
        gone = [self.trouble] if self.trouble else [_gone_words(name) for name in self._gone(found)]
        self.unusable = (*found.unusable, *gone)
        self._met |= {device.name for device in found.devices}
        return list(found.devices)

    def _gone(self, found: Devices) -> list[str]:
        """The devices that were there before, and that a process does not find: one that had no memory for a driver."""
        return sorted(self._met - {device.name for device in found.devices})

    def memory(self) -> MemoryReport:
        """The memory that the runner holds, in bytes."""
        return self._query(MemoryRequest(), MemoryReport)

    def load(
        self,
        weights: WeightSet,
        placement: Placement | str,
        progress: Callable[[int, int], None] | None = None,
        interrupted: IsInterrupted | None = None,
    ) -> LoadReport:
        """Bring weights where they live; nothing happens where they are there. `progress` gets bytes done and in all.

        Raises RunnerError, OutOfMemory, RunnerLost, Interrupted.
        """
        supplies = Supplies({}, weights, as_placement(placement), progress)
        request = LoadRequest(weights.digest, supplies.placement)
        with self._working:
            self.peaks = {}
            return self._answer(lambda _: request, LoadReport, supplies, interrupted, progress)[0]

    def release(self, weights_digest: str, placement: Placement | str) -> None:
        """Free the built program and the compute buffer of a weight set, placed so; its weights stay."""
        self._free(ReleaseRequest(weights_digest, as_placement(placement)))

    def unload(self, weights_digest: str, placement: Placement | str) -> None:
        """Free a weight set, placed so, its built program and its compute buffer; files that another set uses stay."""
        self._free(UnloadRequest(weights_digest, as_placement(placement)))

    def _free(self, request: ReleaseRequest | UnloadRequest) -> None:
        with self._working:
            process = self._process
            if process and process.alive:
                with suppress(ProcessDied):
                    self._ask(process, lambda _: request, Done)

    def run(
        self,
        weights: WeightSet,
        placement: Placement | str,
        program: Program,
        inputs: dict[str, np.ndarray],
        interrupted: IsInterrupted | None = None,
        progress: Callable[[float], None] | None = None,
        checked: bool = True,
        turn: Turn = NO_TURN,
    ) -> list[np.ndarray]:
        """Run a program on weights, loading both where the runner does not hold them; the outputs in float32.

        `progress` gets the fraction done. With `checked`, a result that cannot be one is an error. turn: of a series of
        runs; inputs that the program writes into are sent where the runner does not hold what the turn before left.
        Raises RunnerError, OutOfMemory, RunnerLost, Interrupted.
        """
        supplies = Supplies({program.digest: program}, weights, as_placement(placement))
        compose = partial(write_inputs, supplies, program, inputs, turn=turn)
        report = None if progress is None else lambda done, _total: progress(done)
        with self._working:
            self.peaks = {}
            reply, arena = self._answer(compose, RunReply, supplies, interrupted, report)
            outputs = read_outputs(arena, program)
        if checked:
            check_outputs(weights, supplies.placement.device, inputs, reply.outputs)
        return outputs

    def estimate(self, name: str, placement: Placement | str, program: Program) -> Estimate:
        """Estimates the memory of a program of the model called `name`; nothing is loaded or allocated.

        Raises RunnerError where the device cannot compute it at all, RunnerLost.
        """
        request = EstimateRequest(name, as_placement(placement), program.digest)
        with self._working:
            return self._answer(lambda _: request, Estimate, Supplies({program.digest: program}))[0]

    def dry_run(
        self, capacity: Mapping[str, int], steps: Sequence[Step | ExternalModel], foreign: Sequence[DeviceInfo] = ()
    ) -> DryRun:
        """Dry-runs calls one after the other: the memory they would take; nothing is loaded.

        capacity: bytes by device. foreign: those of the devices that belong to another machine.
        Raises RunnerError for a device that is not there, RunnerLost, and QuotaExceeded, with the runner idle again.
        """
        programs = {step.program.digest: step.program for step in steps if isinstance(step, Step) and step.program}
        request, quota = dry_run_request(capacity, steps, foreign), current_quota()

        def within_quota() -> bool:
            check_quota()
            return False

        with self._working, quota.waiting() if quota else nullcontext():
            return self._answer(lambda _: request, DryRun, Supplies(programs), within_quota)[0]

    def profile(
        self, weights: WeightSet, placement: Placement | str, program: Program, inputs: dict[str, np.ndarray]
    ) -> dict[int, float]:
        """Seconds of each operation of a program, by its index in the table, each computed alone and waited for.

        Raises as `run` does.
        """
        supplies = Supplies({program.digest: program}, weights, as_placement(placement))

        def compose(arena: Arena) -> ProfileRequest:
            return ProfileRequest(write_inputs(supplies, program, inputs, arena))

        with self._working:
            reply, _ = self._answer(compose, ProfileReply, supplies)
        return dict(reply.seconds)

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

    def _query(self, request: Query, expected: type[Result]) -> Result:
        return self._answer(lambda _: request, expected, timeout=min(_QUERY_TIMEOUT, self.timeout))[0]

    def _answer(
        self,
        compose: Callable[[Arena], Request],
        expected: type[Result],
        supplies: Supplies | None = None,
        interrupted: IsInterrupted | None = None,
        progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> tuple[Result, Arena]:
        """As `_ask` from a living process, with its shared memory; if the process dies, once more from a new one.

        And once more where drivers end it: without them, or with them where that was the first time.
        """
        death, attempts = ProcessDied(), self._attempts
        while attempts:
            attempts -= 1
            process = self._living()
            try:
                return self._ask(process, compose, expected, supplies, interrupted, progress, timeout), process.arena
            except NoDevice as error:
                if error.device not in self._met or self.trouble:
                    raise self._explained(error) from error
                if not attempts:
                    raise RunnerError(f"{error} {_gone_words(error.device)}") from error
                self.close()
            except ProcessDied as error:
                self._after_exit(process, error)
                death = error
                attempts += self._attempts > 1 and process.loading_drivers and self._driver_deaths == 1
        if self._attempts == 1:
            raise RunnerLost(str(death)) from death
        raise RunnerLost(
            f"The process that runs the models ended twice over the same request. {death}\n"
            "Update the graphics driver, choose another device in the node, or use a smaller picture or file."
        ) from death

    def _living(self) -> RunnerProcess:
        with self._starting:
            if self._process and not self._process.alive:
                self._process.close(wanted=False)
                self._process = None
            if not self._process:
                if not has_ggml():
                    raise RunnerLost(missing_words())
                try:
                    self._process = RunnerProcess(self._options, self._environment)
                except OSError as error:
                    raise RunnerLost(f"The process that runs the models could not be started: {error}") from error
            return self._process

    def _after_exit(self, process: RunnerProcess, death: ProcessDied) -> None:
        if process.closed:
            raise RunnerError("The runner was closed while it worked on this.") from death
        with self._starting:  # also one that not even SIGKILL ends yet, held up in a driver
            known = self._process is process  # else another caller, or `_living`, has closed it
            if known:
                self._process = None
        if known:
            process.close(wanted=False)
        log.warning("The process that runs the models ended: %s", death)
        self._driver_deaths += known and process.loading_drivers
        if self._driver_deaths > 1 and self.trouble is None:  # once may be for want of memory, or by the system
            self.trouble = (
                "Vulkan is switched off until ComfyUI restarts: its driver twice ended the process that loaded it. "
                "Update or reinstall the graphics driver."
            )
            self._environment |= _WITHOUT_VULKAN
            log.warning("%s", self.trouble)

    def _ask(
        self,
        process: RunnerProcess,
        compose: Callable[[Arena], Request],
        expected: type[Result],
        supplies: Supplies | None = None,
        interrupted: IsInterrupted | None = None,
        progress: OnProgress | None = None,
        timeout: float | None = None,
        payload: bytes = b"",
    ) -> Result:
        """The runner's reply to a request; what it lacks for that is sent, and then the request again.

        compose: makes the request, with inputs in shared memory, which what is sent before it overwrites.
        Raises ProcessDied, Interrupted and RunnerError.
        """
        sent: set[Failure] = set()
        while True:
            reply = process.exchange(compose(process.arena), payload, timeout or self.timeout, interrupted, progress)
            for name, nbytes in reply.peaks.items():
                self.peaks[name] = max(nbytes, self.peaks.get(name, 0))
            if isinstance(reply.result, expected):
                return reply.result
            if not isinstance(reply.result, Failure):
                raise ProtocolError(f"the runner answered with {type(reply.result).__name__}, not {expected.__name__}")
            error = exception(reply.result)
            if isinstance(error, NoDevice):
                raise error
            if not isinstance(error, Missing) or supplies is None or reply.result in sent:
                raise self._explained(error)
            sent.add(reply.result)
            self._supply(process, error, supplies, interrupted)

    def _supply(
        self, process: RunnerProcess, missing: Missing, supplies: Supplies, interrupted: IsInterrupted | None
    ) -> None:
        if missing.what == "weights":
            request = supplies.load_request()
            self._ask(process, lambda _: request, LoadReport, supplies, interrupted, supplies.progress)
        if missing.what == "inputs":
            supplies.asked.update(missing.digests)
            return
        for digest in missing.digests:
            if missing.what == "program":
                self._send_program(process, supplies.programs[digest])
            else:
                self._ask(process, partial(write_array, supplies, digest), Done)

    def _send_program(self, process: RunnerProcess, program: Program) -> None:
        self._ask(process, lambda _: ProgramRequest(program.digest), Done, payload=program.to_bytes())

    def _explained(self, error: Exception) -> Exception:
        if self.trouble and type(error) in (RunnerError, NoDevice):
            return RunnerError(f"{error} {self.trouble}")
        return error


def _gone_words(name: str) -> str:
    return (
        f"{name} was there before, and its driver does not list it any more: memory may be short, or the driver was "
        "changed. Close other programs; if that does not help, restart ComfyUI."
    )


_shared: Runner | None = None
_off: tuple[tuple[str, str, str], ...] = ()  # descriptions of devices, their drivers, and what is switched off there
_shared_lock = threading.Lock()


def another() -> Runner:
    """A runner as the user wants them; raises RunnerError when their number of threads is none."""
    threads = wanted_threads()
    given = ("--threads", str(threads)) if threads else ()
    return Runner((*given, *(part for each in _off for part in ("--off", *each))))


def switch_off(parts: Iterable[tuple[str, str, str]]) -> None:
    """Have new runners set variables of ggml's for devices; the shared one comes back with them.

    parts: a device's description, its driver, a variable.
    """
    global _shared, _off
    with _shared_lock:
        before, _off = _off, tuple(parts)
        if _off != before and _shared is not None:
            _shared.close()
            _shared = None


def shared() -> Runner:
    """The one runner of this process that computes; raises as `another`."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = another()
        return _shared
