"""A weight set on a device: mapped from its files or repacked on the CPU, uploaded or streamed elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...placement import CPU, RAM
from ...program import Program
from ...program.tensor import ne_of
from ...weights.weight_set import Parameter, WeightSet, mappable
from ..device.buffers import allocate, describe
from ..device.devices import Device
from .files import FileSource, LoadProgress, Progress
from .repacked import Repacked, repackable
from .streamed import SMALL


class FileWeights:
    """The parameters of a weight set that lie in files, on one device: mapped, repacked or uploaded when it is made.

    residency: RAM leaves them in the pages of their files, from which a CPU computes and a Stream feeds other devices;
    otherwise they live on the device, and a CPU makes repacked copies of the matrices it has that layout for.
    Raises WeightsError, OutOfMemory or Interrupted, and then holds nothing.
    """

    def __init__(
        self,
        weights: WeightSet,
        device: Device,
        source: FileSource,
        progress: Progress,
        interrupted: Callable[[], bool],
        residency: str = RAM,
    ) -> None:
        self.mapped_bytes = 0  # used in place, from the page cache
        self.streamed: dict[str, Parameter] = {}  # described on the device, without memory of their own there
        self.repacked = Repacked(device, source)
        self._weights = weights
        self._source = source
        self._mapped_files: dict[str, Any] = {}  # buffers around them, by path
        parameters = weights.parameters.values()
        self.allocation = describe(device, ((p.name, p.type, ne_of(p.shape)) for p in parameters))
        try:
            self._load(progress, interrupted, residency)
        except BaseException:
            self.free()
            raise

    @property
    def copied_bytes(self) -> int:
        """Device memory that was allocated for them as their files have them, or converted."""
        return self.allocation.nbytes

    @property
    def weight_bytes(self) -> int:
        """Device memory that was allocated for them."""
        return self.copied_bytes + self.repacked.weight_bytes

    @property
    def streamed_bytes(self) -> int:
        """Bytes that pass through the device at every run."""
        return sum(parameter.weight_bytes for parameter in self.streamed.values())

    @property
    def streamed_tensors(self) -> dict[str, Any]:
        """The tensors of streamed weights, by name."""
        return {name: self.allocation.tensors[name] for name in self.streamed}

    def tensor(self, name: str) -> Any:
        """The tensor to compute with, None for an unknown name."""
        repacked = self.repacked.tensor(name)
        return self.allocation.tensors.get(name) if repacked is None else repacked

    def fill(self, name: str) -> None:
        """Write a streamed weight where its tensor now is; another thread may compute with others meanwhile."""
        tensor = self.allocation.tensors[name]
        for piece in self._source.converted(self.streamed[name]):
            self.allocation.device.write(tensor, piece.data, piece.offset)

    def unrepack_for(self, program: Program) -> None:
        """Go back to the file for the repacked weights that an operation of this program needs as they were."""
        not_repackable = self.repacked.not_repackable(program)
        self.repacked.free_copies(not_repackable)
        self.mapped_bytes += sum(self._weights.parameters[name].nbytes for name in not_repackable)

    def check_files(self) -> None:
        """Raise WeightsError when a file is no longer the one that was loaded."""
        self._source.check()

    def free(self) -> None:
        """Free all memory and close the files."""
        self.repacked.free()
        self.allocation.free()
        self._source.close()
        self._mapped_files.clear()
        self.mapped_bytes = 0
        self.streamed = {}

    def _load(self, progress: Progress, interrupted: Callable[[], bool], residency: str) -> None:
        self._source.open()
        parameters = list(self._weights.parameters.values())
        in_ram = residency == RAM
        repacked: list[Parameter] = []
        if self.allocation.device.type == CPU:
            copied = self._map_in_place(parameters)
            repacked = [] if in_ram else [p for p in parameters if self._is_repackable(p)]
        else:
            self.streamed = {p.name: p for p in parameters if in_ram and p.weight_bytes > SMALL}
            copied = [p for p in parameters if p.name not in self.streamed]
        label = f"the weights of {self._weights.name}"
        allocate(self.allocation, [p.name for p in copied], label)
        loading = LoadProgress(label, sum(p.nbytes for p in (*copied, *repacked)), progress, interrupted)
        for parameter in copied:
            self._upload(parameter, loading)
        self.repacked.make(repacked, label, loading)
        if not self.mapped_bytes and not self.streamed:
            self._source.close()
        self.mapped_bytes -= sum(p.nbytes for p in repacked)

    def _map_in_place(self, parameters: list[Parameter]) -> list[Parameter]:
        """Point what needs no conversion into the mapped files; returns the rest."""
        device, rest = self.allocation.device, []
        for parameter in parameters:
            if not mappable(parameter):
                rest.append(parameter)
                continue
            path = parameter.path
            if path not in self._mapped_files:
                self._mapped_files[path] = device.map_buffer(self._source.whole(path))
                self.allocation.adopt(self._mapped_files[path], 0)
            device.put(self.allocation.tensors[parameter.name], self._mapped_files[path], parameter.runs[0].offset)
            self.mapped_bytes += parameter.nbytes
        return rest

    def _upload(self, parameter: Parameter, loading: LoadProgress) -> None:
        tensor = self.allocation.tensors[parameter.name]
        for piece in self._source.converted(parameter):
            loading.check()
            self.allocation.device.write(tensor, piece.data, piece.offset)
            loading.advance(piece.stored_bytes)

    def _is_repackable(self, parameter: Parameter) -> bool:
        ne = ne_of(parameter.shape)
        return mappable(parameter) and repackable(self.allocation.device, parameter.type, ne)
