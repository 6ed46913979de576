"""What the runner holds for the models of this process, and when it gives that back."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from weakref import WeakSet, finalize

from ...native.client import RunnerError
from ...native.engines.model import LowRank, Model
from ...native.llm.server_lifetime import unload_if_idle
from ...native.placement import DISK

log = logging.getLogger(__name__)
_GRACE = 1.0  # seconds in which another model may come that uses the files of one that went


class LoadedWeights:
    """The weights of one model in the runner, which holds a set of them for each set of low-rank branches."""

    def __init__(self, model: Model, owner: object) -> None:
        """owner: when it is gone, so is the model."""
        self.model = model
        self.component = id(owner)  # of what computes in one phase, such as both text encoders
        self._loaded = False
        self._replaced: list[str] = []  # digests of the sets that no longer count
        _all.add(self)
        if not model.dry_run:
            finalize(owner, _note, self).atexit = False

    @property
    def is_loaded(self) -> bool:
        """Whether it was loaded, and no set is left that no longer counts."""
        return self._loaded and not self._replaced

    def set_branches(self, branches: Mapping[str, LowRank]) -> None:
        """Put low-rank branches beside weights, by parameter name, instead of those that were there."""
        before = self.model.weights.digest
        self.model.set_branches(branches)
        if self.model.weights.digest != before:
            self._replaced.append(before)

    def load(self, progress: Callable[[int, int], None], interrupted: Callable[[], bool]) -> None:
        """Bring the weights to the device; `progress` gets bytes done and in all. Raises what Model.load does."""
        if not self.model.dry_run:
            unload_orphans(self)
        self.begin_phase()
        self.model.load(progress, interrupted)
        self._loaded = True
        self._unload_replaced()  # only now, so that the files they share with what is loaded stay
        if not self.model.dry_run:
            unload_orphans()

    def begin_phase(self) -> None:
        """Give back what other components keep for no longer than they compute."""
        if not self.model.dry_run:
            unload_if_idle()
        for other in list(_all):
            if other.component != self.component and other.model.dry_run == self.model.dry_run:
                other.end_phase()

    def end_phase(self) -> None:
        """Give back what is kept for no longer than it computes."""
        if self._loaded and self.model.placement.weights == DISK:
            self.unload()

    def unload(self) -> None:
        """Free all that the runner holds for this model."""
        self._loaded = False
        self._unload_replaced()
        self.model.unload()

    def on(self, device: str) -> bool:
        """Whether it was loaded to a device."""
        return self._loaded and not self.model.dry_run and self.model.placement.device == device

    def shares_weights(self, other: LoadedWeights) -> bool:
        """Whether the runner holds one weight set for both."""
        return self.model.weights.digest == other.model.weights.digest and self._is_placed_as(other)

    def shares_files(self, other: LoadedWeights) -> bool:
        """Whether the runner holds the same files for both."""
        return self.model.file_weights.digest == other.model.file_weights.digest and self._is_placed_as(other)

    def _is_placed_as(self, other: LoadedWeights) -> bool:
        return self.model.placement == other.model.placement

    def _unload_replaced(self) -> None:
        while self._replaced:
            self.model.unload(self._replaced.pop())


def evict(device: str, nbytes: int, free: Callable[[], int]) -> None:
    """Unload models from a device until `free()` is at least so many bytes, or none is left there."""
    for residency in list(_all):
        if free() >= nbytes:
            return
        if residency.on(device):
            residency.unload()


_all: WeakSet[LoadedWeights] = WeakSet()
# Models that are gone. A finalizer may run in the middle of a call to the runner, so it only notes them here.
_orphans: deque[LoadedWeights] = deque()
_noted: SimpleQueue[None] = SimpleQueue()
_releasing = threading.Lock()


def unload_orphans(coming: LoadedWeights | None = None) -> None:
    """Unload the models that are gone, but not yet those whose files `coming` is about to use too."""
    with _releasing:
        for _ in range(len(_orphans)):
            orphan = _orphans.popleft()
            if coming and orphan.shares_files(coming):
                _orphans.append(orphan)
                continue
            living = [other for other in list(_all) if other is not orphan and other not in _orphans]
            if not any(orphan.shares_weights(other) for other in living):
                orphan.unload()


def _note(orphan: LoadedWeights) -> None:
    _orphans.append(orphan)
    _noted.put(None)


def _unload_when_idle() -> None:
    """A model may go when no other comes: when ComfyUI is told to free memory, for one."""
    while True:
        _noted.get()
        if _ending.wait(_GRACE):
            return
        try:
            unload_orphans()
        except RunnerError as error:
            log.warning("The memory of a model that is gone could not be freed: %s", error)


def _end() -> None:
    """Python ends: a thread that is then among torch's destructors would end the process with an abort."""
    _ending.set()
    _noted.put(None)
    _releaser.join(5)


_ending = threading.Event()
_releaser = threading.Thread(target=_unload_when_idle, name="release models", daemon=True)
_releaser.start()
atexit.register(_end)
