"""The models and programs that requests name, and what `auto` means for each of them on its device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..placement import AUTO, RAM
from ..weights.weight_set import Parameter, WeightSet
from .budget import OverBudget
from .devices import Device, Devices
from .errors import Missing, OutOfMemory, RequestError
from .graph import Graph
from .models import Key, Model, Models
from .programs import Programs
from .protocol import Header
from .weights import Progress


class Holdings:
    """What requests load, build and unload on the devices there are."""

    def __init__(self, devices: Devices, models: Models, programs: Programs) -> None:
        self.devices = devices
        self.models = models
        self.programs = programs

    def load(self, request: Header, progress: Progress, aborted: Callable[[], bool]) -> Model:
        """The loaded set that a request names, loaded now if it describes one that is not.

        Raises Missing where it does not describe it, and what Models.load does.
        """
        device = self.devices.find(request["device"])
        model = self.models.get(self._key(request, device))
        if model is not None:
            return model
        if "parameters" not in request:
            raise Missing("the weights are not loaded", what="weights")
        return self._load(request, device, progress, aborted)

    def loaded(self, request: Header) -> Model:
        """The set that a request computes with; raises Missing, and WeightsError when its files have changed."""
        device = self.devices.find(request["device"])
        key = self._key(request, device)
        model = self.models.get(key)
        if model is None:
            raise Missing("the weights are not loaded", what="weights")
        try:
            model.files.check_files()
        except RequestError:
            self.models.unload(key)
            raise
        return model

    def graph(self, request: Header) -> Graph:
        """The graph of a request's program on its loaded set, built now if it is not.

        Raises Missing where either is not there, and what Models.build does.
        """
        model = self.loaded(request)
        digest = request["program"]
        if model.graph is not None and model.program == digest:
            return model.graph
        device, serialised = self.devices.find(request["device"]), self.programs[digest]
        key = self._key(request, device)
        try:
            return self.models.build(key, digest, serialised, device)
        except (OutOfMemory, OverBudget):
            if not self._streams_instead(request, key, device):
                raise
            raise Missing("the weights are to be loaded anew", what="weights") from None

    def unload(self, request: Header) -> bool:
        """Free a set; whether it was there."""
        device = next((each for each in self.devices.known() if each.name == request["device"]), None)
        return device is not None and self.models.unload(self._key(request, device))

    def report(self) -> list[dict[str, Any]]:
        """What is held for each set, as the client's ModelMemory has it."""
        return [
            {
                "name": model.name,
                "digest": digest,
                "device": place.device,
                "budget": place.budget,
                "files_digest": model.files_key[0],
                "mapped": model.files.mapped,
                "copied": model.files.copied,
                "repacked": model.files.repacked.nbytes,
                "streamed": model.files.streamed_nbytes,
                "staging": graph.staging_bytes if (graph := model.graph) else 0,
                "buffers": len(model.files.placed.buffers),
                "arrays": model.arrays_nbytes,
                "constants": graph.constant_bytes if graph else 0,
                "compute": graph.compute_bytes if graph else 0,
                "work": graph.work_bytes if graph else 0,
            }
            for (digest, place), model in self.models.all()
        ]

    def _load(self, request: Header, device: Device, progress: Progress, aborted: Callable[[], bool]) -> Model:
        weights = WeightSet(
            request["name"],
            {row[0]: Parameter(row[0], row[1], tuple(row[2]), *row[3:]) for row in request["parameters"]},
            tuple((path, size, mtime_ns) for path, size, mtime_ns in request["files"]),
        )
        key = self._key(request, device)
        try:
            return self.models.load(key, device, weights, request["files_digest"], request["arrays"], progress, aborted)
        except (OutOfMemory, OverBudget):
            if not self._streams_instead(request, key, device):
                raise
            return self._load(request, device, progress, aborted)

    def _streams_instead(self, request: Header, key: Key, device: Device) -> bool:
        """Whether a set that does not fit may be streamed; then it is, from now on."""
        if request["residency"] != AUTO or key[1].weights == RAM:
            return False
        self.models.unload(key)
        self.models.stream(key[0], device)
        return True

    def _key(self, request: Header, device: Device) -> Key:
        digest = request["digest"]
        return digest, self.models.place(digest, device, request["residency"], request["budget"])
