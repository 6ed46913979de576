"""When the weights of components are loaded and unloaded: phases, residency "disk", models that are gone, eviction."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from weakref import WeakSet, finalize

from ...native.client import RunnerError
from ...native.engines.model import Model, Patches
from ...native.llm.server_lifetime import unload_if_idle
from ...native.llm.server_release import release_servers
from ...native.placement import DISK

log = logging.getLogger(__name__)
_GRACE = 1.0  # seconds in which another model may come that uses the files of one that went


class LoadedWeights:
    """The weights of one component, of which its engine holds a set for each set of low-rank branches."""

    def __init__(self, model: Model, owner: object, lifetimes: Lifetimes) -> None:
        """owner: the component; when it is gone, its weights may go. lifetimes: those of its host."""
        self.model = model
        self.component = id(owner)  # of what computes in one phase, such as both text encoders
        self._lifetimes = lifetimes
        self._loaded = False
        self.is_kept_ready = False  # until another component computes: nobody says when a node's own loop ends
        self.beside: LoadedWeights | None = None  # of the same component, for some of its calls
        self._replaced: list[str] = []  # digests of the sets that no longer count
        lifetimes.add(self, owner)

    @property
    def is_loaded(self) -> bool:
        """Whether it was loaded, and no set is left that no longer counts."""
        return self._loaded and not self._replaced

    def set_patches(self, patches: Patches) -> None:
        """Change the model so, instead of as before."""
        before = self.model.weights.digest
        self.model.set_patches(patches)
        if self.model.weights.digest != before:
            self._replaced.append(before)

    def join(self, others: Sequence[Model]) -> None:
        """As Model.join."""
        before = self.model.weights.digest
        self.model.join(others)
        if self.model.weights.digest != before:
            self._replaced.append(before)

    def load(self, progress: Callable[[int, int], None], interrupted: Callable[[], bool]) -> None:
        """Bring the weights to the device; `progress` gets bytes done and in all. Raises what Model.load does."""
        self._lifetimes.unload_orphans(self)
        self.begin_phase()
        self.model.load(progress, interrupted)
        self._loaded = True
        self._unload_replaced()  # only now, so that the files they share with what is loaded stay
        self._lifetimes.unload_orphans()

    def begin_phase(self) -> None:
        """Unload what other components keep for no longer than they compute."""
        self._lifetimes.begin_phase(self.component)

    def release(self) -> None:
        """Give back what only computing needs, such as the compute buffer of a large picture."""
        self.is_kept_ready = False
        if self._loaded:
            self.model.release()

    def end_phase(self) -> None:
        """Give back what only computing needs, and the weights if their residency is "disk"."""
        self.release()
        self.give_way()

    def give_way(self) -> None:
        """Free for what computes next what was kept ready, and unload the weights if their residency is "disk"."""
        if self.is_kept_ready:
            self.release()
        if self._loaded and self.model.placement.residency == DISK:
            self.unload()

    def unload(self) -> None:
        """Free all that the engine holds for this component."""
        self._loaded = False
        self._unload_replaced()
        self.model.unload()
        if self.beside is not None:
            self.beside.unload()

    @property
    def device(self) -> str:
        """Where the weights are, or will be."""
        return self.model.placement.device

    def is_on(self, device: str) -> bool:
        """Whether the weights were loaded to a device."""
        return self._loaded and self.device == device

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


class Lifetimes:
    """The weights of all components of one host, of which one component computes at a time."""

    def __init__(self) -> None:
        self._all: WeakSet[LoadedWeights] = WeakSet()

    def __iter__(self) -> Iterator[LoadedWeights]:
        """Those whose component may still compute."""
        return iter(list(self._all))

    def add(self, weights: LoadedWeights, owner: object) -> None:
        """Take in the weights of a new component."""
        self._all.add(weights)

    def begin_phase(self, component: int) -> None:
        """End the phase of every other component."""
        for each in self:
            if each.component != component:
                each.give_way()

    def unload_orphans(self, coming: LoadedWeights | None = None) -> None:
        """Unload the weights whose component is gone and that nothing will use; coming: what computes next."""


class ProcessLifetimes(Lifetimes):
    """The weights that really are in memory, and so outlive a component that is gone until they are unloaded."""

    def __init__(self) -> None:
        super().__init__()
        # A finalizer may run in the middle of a call to the runner, so it only notes here whose weights are to go.
        self._orphans: deque[LoadedWeights] = deque()
        self._noted: SimpleQueue[None] = SimpleQueue()
        self._unloading = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._unload_when_idle, name="unload orphans", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def add(self, weights: LoadedWeights, owner: object) -> None:
        """Take in the weights of a new component, and note them as orphans once it is gone."""
        super().add(weights, owner)
        finalize(owner, self._note, weights).atexit = False

    def begin_phase(self, component: int) -> None:
        """End the phase of every other component, and of language models that nobody asks."""
        unload_if_idle()
        release_servers()
        super().begin_phase(component)

    def unload_orphans(self, coming: LoadedWeights | None = None) -> None:
        """Unload the weights whose component is gone, but for those that another component has or is about to have.

        What `coming` computes with stays, and what any other will, unless `coming` computes on that device before it.
        """
        with self._unloading:
            for _ in range(len(self._orphans)):
                orphan = self._orphans.popleft()
                living = [other for other in self if other is not orphan and other not in self._orphans]
                heirs = [other for other in living if orphan.shares_weights(other)]
                if any(heir.is_on(orphan.device) for heir in heirs):
                    continue
                in_the_way = coming is not None and coming not in heirs and coming.device == orphan.device
                if (heirs and not in_the_way) or (coming and not coming.is_loaded and orphan.shares_files(coming)):
                    self._orphans.append(orphan)
                else:
                    orphan.unload()

    def evict(self, device: str, nbytes: int, free: Callable[[], int]) -> None:
        """Unload components from a device until `free()` is at least so many bytes, or none is left there."""
        for weights in self:
            if free() >= nbytes:
                return
            if weights.is_on(device):
                weights.unload()

    def _note(self, orphan: LoadedWeights) -> None:
        self._orphans.append(orphan)
        self._noted.put(None)

    def _unload_when_idle(self) -> None:
        """Unload orphans when no other model comes: when ComfyUI is told to free memory, for one."""
        while True:
            self._noted.get()
            if self._ending.wait(_GRACE):
                return
            try:
                self.unload_orphans()
            except RunnerError as error:
                log.warning("The memory of a model that is gone could not be freed: %s", error)

    def _end(self) -> None:
        """Python ends: a thread that is then among torch's destructors would end the process with an abort."""
        self._ending.set()
        self._noted.put(None)
        self._thread.join(5)
