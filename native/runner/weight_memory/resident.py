"""A weight set on a device: mapped from its files or repacked on the CPU, uploaded or streamed elsewhere."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import Interrupted, RequestError
from ...placement import RAM
from ...program import Program
from ...program.tensor import ne_of
from ...weights.convert import convert, pieces
from ...weights.weight_file import WeightFileError
from ...weights.weight_set import Parameter, WeightSet, check_unchanged, mappable
from ..device.buffers import allocate, describe
from ..device.devices import Device
from ..ggml_binding import ggml, pointer
from .repacked import Repacked, Source, repackable
from .streamed import SMALL

PIECE = 16 << 20  # bytes; the most private memory that an upload holds
Progress = Callable[[int, int], None]


class WeightsError(RequestError):
    """A weight file that is gone, has changed, or does not hold what its header said."""

    kind = "weights"


class FileWeights:
    """The file-backed parameters of a weight set, on one device: mapped, repacked or uploaded when this is made.

    residency: RAM leaves them in the pages of their files, from which a CPU computes and a Stream feeds other devices;
    otherwise they live on the device, and a CPU makes repacked copies of the matrices it has that layout for.
    Raises WeightsError, OutOfMemory or Interrupted, and then holds nothing.
    """

    copies = Repacked

    def __init__(
        self,
        weights: WeightSet,
        device: Device,
        progress: Progress,
        interrupted: Callable[[], bool],
        largest: int | None,
        residency: str = RAM,
    ) -> None:
        self.mapped = 0  # bytes used in place, from the page cache
        self.streamed: dict[str, Parameter] = {}  # described on the device, without memory of their own there
        self.repacked = self.copies(device)
        self._weights = weights
        self._maps: dict[str, mmap.mmap] = {}
        self._in_place: dict[str, Any] = {}  # buffers around them, by path
        parameters = weights.parameters.values()
        self.allocation = describe(device, ((p.name, p.type, ne_of(p.shape)) for p in parameters))
        try:
            self._load(progress, interrupted, largest, residency)
        except BaseException:
            self.free()
            raise

    @property
    def copied(self) -> int:
        """Bytes of device memory that were allocated for them."""
        return self.allocation.nbytes

    @property
    def streamed_nbytes(self) -> int:
        """Bytes that pass through the device at every run."""
        return sum(parameter.loaded_nbytes for parameter in self.streamed.values())

    def tensor(self, name: str) -> Any:
        """The tensor to compute with, None for an unknown name."""
        repacked = self.repacked.tensor(name)
        return self.allocation.tensors.get(name) if repacked is None else repacked

    def fill(self, name: str) -> None:
        """Write a streamed weight where its tensor now is; another thread may compute with others meanwhile."""
        self.upload(self.streamed[name], lambda _nbytes: None, lambda: False)

    def unrepack_for(self, program: Program) -> None:
        """Go back to the file for the repacked weights that an operation of this program needs as they were."""
        not_repackable = self.repacked.not_repackable(program)
        self.repacked.free_copies(not_repackable)
        self.mapped += sum(self._weights.parameters[name].nbytes for name in not_repackable)

    def open(self) -> None:
        """Map the files; raises WeightsError when one is no longer what its header said."""
        self.check_files()
        self._maps = {path: _map(path) for path, _, _ in self._weights.files}

    def point(self, parameter: Parameter) -> None:
        """Give a weight its place in its mapped file."""
        data, device = np.frombuffer(self._maps[parameter.path], np.uint8), self.allocation.device
        if parameter.path not in self._in_place:
            buffer = ggml.ggml_backend_dev_buffer_from_host_ptr(device.handle, pointer(data), data.nbytes, data.nbytes)
            self._in_place[parameter.path] = buffer
            self.allocation.adopt(buffer, 0)
        device.put(self.allocation.tensors[parameter.name], self._in_place[parameter.path], parameter.offset)

    def upload(self, parameter: Parameter, advance: Callable[[int], None], interrupted: Callable[[], bool]) -> None:
        """Write a weight where its tensor is, converted piece by piece; `advance` gets the bytes of each piece."""
        tensor = self.allocation.tensors[parameter.name]
        data = np.frombuffer(self._maps[parameter.path], np.uint8)
        unchanged = parameter.type == parameter.stored
        for piece in pieces(parameter, PIECE) if unchanged else pieces(parameter):
            if interrupted():
                raise Interrupted(f"loading {self._weights.name} was interrupted")
            loaded = convert(parameter, data[piece.offset : piece.offset + piece.nbytes])
            assert loaded.nbytes == piece.target_nbytes
            self.allocation.device.write(tensor, loaded, piece.target)
            advance(piece.nbytes)

    def check_files(self) -> None:
        """Raise WeightsError when a file is no longer the one that was loaded."""
        try:
            check_unchanged(self._weights)
        except WeightFileError as error:
            raise WeightsError(str(error)) from error

    def free(self) -> None:
        """Give everything back."""
        self.repacked.free()
        self.allocation.free()
        self._maps.clear()
        self._in_place.clear()
        self.mapped = 0
        self.streamed = {}

    def _load(self, progress: Progress, interrupted: Callable[[], bool], largest: int | None, residency: str) -> None:
        self.open()
        parameters = list(self._weights.parameters.values())
        in_ram = residency == RAM
        repacked: list[Parameter] = []
        if self.allocation.device.type == "CPU":
            copied = self._use_in_place(parameters)
            repacked = [] if in_ram else [p for p in parameters if self._is_repackable(p)]
        else:
            self.streamed = {p.name: p for p in parameters if in_ram and p.loaded_nbytes > SMALL}
            copied = [p for p in parameters if p.name not in self.streamed]
        what = f"the weights of {self._weights.name}"
        allocate(self.allocation, [p.name for p in copied], what, largest)
        advance = _advance(sum(p.nbytes for p in (*copied, *repacked)), progress)
        for parameter in copied:
            self.upload(parameter, advance, interrupted)
        self.repacked.make([self._source(p) for p in repacked], what, advance, interrupted)
        if not self.mapped and not self.streamed:
            self._maps.clear()
        self.mapped -= sum(p.nbytes for p in repacked)

    def _use_in_place(self, parameters: list[Parameter]) -> list[Parameter]:
        """Point what needs no conversion into the mapped files; returns the rest."""
        rest = []
        for parameter in parameters:
            if not mappable(parameter):
                rest.append(parameter)
                continue
            self.point(parameter)
            self.mapped += parameter.nbytes
        return rest

    def _is_repackable(self, parameter: Parameter) -> bool:
        ne = ne_of(parameter.shape)
        return mappable(parameter) and repackable(self.allocation.device, parameter.type, ne)

    def _source(self, parameter: Parameter) -> Source:
        ne, mapping = ne_of(parameter.shape), self._maps.get(parameter.path)
        return Source(parameter.name, parameter.type, ne, mapping, parameter.offset, parameter.nbytes)


def _advance(total: int, progress: Progress) -> Callable[[int], None]:
    """Adds up bytes that are done."""
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(done, total)

    return advance


def _map(path: str) -> mmap.mmap:
    """The bytes of a file, read by the system as they are touched."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be mapped: {error}. Choose the file again.") from error
