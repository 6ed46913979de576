"""The host of components: ComfyUI, or a dry run in which nothing is computed and nobody looks on."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial

import comfy.utils
import torch
from comfy import model_management
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...native.client import Device, Interrupted, OutOfMemory, RunnerError, shared
from ...native.engines.choose import check_engine, likely_engine, model_for
from ...native.engines.dry_run import DryRunModel, Recorder, unwritten_zeros
from ...native.engines.model import Model
from ...native.lower import LowerOptions
from ...native.placement import Placement
from ...native.weights import WeightSet
from ..node_text import show_on
from .lifetime import Lifetimes, ProcessLifetimes
from .tiling import Axis, Tiling, first_tile, is_whole, map_tiles, mapped_shape, tile_count

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]  # what is done, and all there is to do


class Host(ABC):
    """The program that components run in."""

    lifetimes: Lifetimes

    @abstractmethod
    def devices(self) -> list[Device]:
        """The devices that components can be placed on; raises RunnerError."""

    @abstractmethod
    def require_device(self, name: str) -> None:
        """Raise RunnerError where it is known already that there is no such device."""

    @abstractmethod
    def model_for(
        self, module: torch.nn.Module, weights: WeightSet, placement: Placement, options: LowerOptions, tokens: int
    ) -> Model:
        """The module under an engine, as native.engines.choose has it; raises ValueError for torch on a GPU."""

    @abstractmethod
    def progress(self) -> Progress:
        """A new progress bar at the node that is being executed."""

    @abstractmethod
    def is_interrupted(self) -> bool:
        """Whether the user wants no more of what is being computed."""

    @abstractmethod
    def raise_if_interrupted(self) -> None:
        """Raise the exception that ends an interrupted prompt."""

    @abstractmethod
    def engine_call(self, model: Model | None = None, oom_retryable: bool = True) -> AbstractContextManager[None]:
        """Around a call of an engine: interruptions and lack of memory as the exceptions that the host handles.

        model: the one that is loaded or run, which has new `peaks` then.
        oom_retryable: False for a lack of memory that ends the job, whatever the host would try.
        """

    @property
    def plans(self) -> bool:
        """Whether nothing is computed, and results are zeros."""
        return False

    @abstractmethod
    def maker(self) -> Callable[[], AbstractContextManager[None]]:
        """Around what is made later of what is loaded now: its models are noted as of the node that is executed now."""

    @abstractmethod
    def alike(self, count: int) -> AbstractContextManager[bool]:
        """Around one of `count` calls that take alike; gives whether this one counts for all of them."""

    @abstractmethod
    def map_tiles(
        self, function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, axes: Sequence[Axis]
    ) -> Tensor:
        """`function` applied to x [batch, ..., *axes] in tiles, as tiling.map_tiles has it."""


@dataclass(frozen=True)
class Observer:
    """Looks on while components work. The planner does, which stands above them and cannot be imported from here.

    on_peak: called with the most bytes held on each device during a load or run, and the digest of the weights that it
    was of. explain_oom: the text of an error.
    """

    on_peak: Callable[[Mapping[str, int], str], None]
    explain_oom: Callable[[OutOfMemory], str]


class ComfyUI(Host):
    """ComfyUI, which executes prompts in this process."""

    lifetimes: ProcessLifetimes

    def __init__(self) -> None:
        self.lifetimes = ProcessLifetimes()
        self.observer = Observer(lambda _peaks, _weights: None, str)
        self.device_names: list[str] = []  # once this machine has been asked for them

    def devices(self) -> list[Device]:
        """The devices of this machine, for which the runner is started if need be."""
        found = shared().devices()
        self.device_names = [device.name for device in found]
        return found

    def require_device(self, name: str) -> None:
        """Nothing: the runner says so when the component is loaded."""

    def model_for(
        self, module: torch.nn.Module, weights: WeightSet, placement: Placement, options: LowerOptions, tokens: int
    ) -> Model:
        """As Host.model_for."""
        return model_for(module, weights, placement, options, tokens)

    def progress(self) -> Progress:
        """ComfyUI's progress bar."""
        bar = comfy.utils.ProgressBar(100)
        return lambda done, total: bar.update_absolute(done, total)

    def is_interrupted(self) -> bool:
        """Whether the user has pressed the button."""
        return bool(model_management.processing_interrupted())

    def raise_if_interrupted(self) -> None:
        """Raise InterruptProcessingException, once for each time that the button was pressed."""
        model_management.throw_exception_if_processing_interrupted()

    @contextmanager
    def engine_call(self, model: Model | None = None, oom_retryable: bool = True) -> Iterator[None]:
        """As Host.engine_call: InterruptProcessingException, and OOM_EXCEPTION or RunnerError."""
        try:
            yield
        except Interrupted:
            self.raise_if_interrupted()
            raise model_management.InterruptProcessingException from None
        except OutOfMemory as error:
            kind = model_management.OOM_EXCEPTION if oom_retryable else RunnerError
            raise kind(self.observer.explain_oom(error)) from error
        if model is not None and model.peaks:
            self.observer.on_peak(model.peaks, model.weights.digest)
        if model is not None and model.island_seconds:
            _show_islands(model.island_seconds)

    def maker(self) -> Callable[[], AbstractContextManager[None]]:
        """Nobody notes it."""
        return nullcontext

    def alike(self, count: int) -> AbstractContextManager[bool]:
        """Each call counts for itself."""
        return nullcontext(False)

    def map_tiles(
        self, function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, axes: Sequence[Axis]
    ) -> Tensor:
        """As Host.map_tiles, with progress; where x is no larger than a tile, image after image as a whole."""
        if is_whole(x, tiling):
            return torch.cat([function(image) for image in x.split(1)])
        progress, count, done = self.progress(), tile_count(x, tiling), 0

        def with_progress(tile: Tensor) -> Tensor:
            nonlocal done
            result = function(tile)
            done += 1
            progress(done, count)
            return result

        return map_tiles(with_progress, x, tiling, axes)


def _show_islands(seconds: Mapping[str, float]) -> None:
    """Say at the executing node, and in the log, which operations torch computes on the processor, and how long."""
    slowest = sorted(seconds.items(), key=lambda each: -each[1])
    text = "Computed by torch on the processor, as ggml has no such operation: " + ", ".join(
        f"{operation} ({took:.2f} s)" for operation, took in slowest
    )
    log.info("%s", text)
    context = get_executing_context()
    if context is not None:
        show_on(context.node_id, text)


class DryRunHost(Host):
    """A dry run: a recorder notes every load and run, and there is nobody to show anything to."""

    def __init__(self, recorder: Recorder) -> None:
        self.lifetimes = Lifetimes()
        self._recorder = recorder

    def devices(self) -> list[Device]:
        """The devices of the machine that is planned for."""
        return list(self._recorder.machine.devices)

    def require_device(self, name: str) -> None:
        """Raise RunnerError where the machine has no such device."""
        machine = self._recorder.machine
        if name not in [device.name for device in machine.devices]:
            raise RunnerError(no_such_device(machine.profile or "This machine", name, self.devices()))

    def model_for(
        self, module: torch.nn.Module, weights: WeightSet, placement: Placement, options: LowerOptions, tokens: int
    ) -> Model:
        """A model that computes nothing; no engine's speed is measured, but the rates say which one would be chosen."""
        check_engine(placement)
        engine = likely_engine(weights, placement, tokens, self._recorder.machine.rates.get(placement.device))
        return DryRunModel(module, weights, replace(placement, engine=engine), options, self._recorder)

    def progress(self) -> Progress:
        """A progress bar that nobody sees."""
        return lambda _done, _total: None

    def is_interrupted(self) -> bool:
        """Never."""
        return False

    def raise_if_interrupted(self) -> None:
        """Never."""

    def engine_call(self, model: Model | None = None, oom_retryable: bool = True) -> AbstractContextManager[None]:
        """Exceptions pass as they are, and nothing was held."""
        return nullcontext()

    @property
    def plans(self) -> bool:
        """True."""
        return True

    def maker(self) -> Callable[[], AbstractContextManager[None]]:
        """The recorder notes it."""
        return partial(self._recorder.within, self._recorder.part)

    @contextmanager
    def alike(self, count: int) -> Iterator[bool]:
        """The first call counts for all of them."""
        with self._recorder.repeated(count):
            yield True

    def map_tiles(
        self, function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, axes: Sequence[Axis]
    ) -> Tensor:
        """Zeros that take no memory: the first tile is noted, and how many there are, as each takes what it does."""
        with self._recorder.repeated(tile_count(x, tiling)):
            tile = function(first_tile(x, tiling))
        shape = (x.shape[0], *tile.shape[1:]) if is_whole(x, tiling) else mapped_shape(x, tile, tiling, axes)
        return unwritten_zeros(shape)


COMFYUI = ComfyUI()
_current: ContextVar[Host] = ContextVar("host", default=COMFYUI)


def current_host() -> Host:
    """The host for which a component or a placement is made now."""
    return _current.get()


@contextmanager
def dry_run_host(recorder: Recorder) -> Iterator[None]:
    """Make the code of nodes within it, loaders above all, build components that compute nothing but for `recorder`."""
    token = _current.set(DryRunHost(recorder))
    try:
        yield
    finally:
        _current.reset(token)


def no_such_device(machine: str, name: str | None, found: list[Device]) -> str:
    """The message for a device that `machine`, in words, does not have."""
    there = "; ".join(f"{device.name} ({device.description})" for device in found)
    return f"{machine} has no device {name}. It has: {there}. Choose one of them, or auto."
