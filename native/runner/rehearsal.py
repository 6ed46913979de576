"""Requests done with nothing behind them: the same decisions to the byte, but no memory, no file and no computing.

Everything that touches memory goes through a Device and a FileWeights; here both only keep account.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ..weights.types import LAYOUTS
from ..weights.weight_set import Parameter
from .devices import Device, Devices
from .errors import Missing, RequestError
from .holdings import Holdings
from .limits import Limits
from .measurement import measurement
from .models import Models
from .protocol import Header
from .repack import Repacked, Source
from .stand_in import StandIn
from .weights import FileWeights


class RehearsedCopies(Repacked):
    """Repacked copies that are never filled."""

    def fill(self, tensor: Any, source: Source) -> None:
        """Nothing."""


class RehearsedWeights(FileWeights):
    """The weights of files that are not opened."""

    copies = RehearsedCopies

    def open(self) -> None:
        """Nothing."""

    def point(self, parameter: Parameter) -> None:
        """As a place in its file."""
        self.placed.device.put(self.placed.tensors[parameter.name], None, 0)

    def upload(self, parameter: Parameter, advance: Callable[[int], None], aborted: Callable[[], bool]) -> None:
        """Nothing."""

    def check_files(self) -> None:
        """Nothing: the client has read their headers."""


class RehearsedDevices(Devices):
    """Stand-ins for the devices that have a capacity."""

    def __init__(self, devices: Devices, capacity: Mapping[str, int]) -> None:
        self._all = [StandIn(devices.find(name), nbytes) for name, nbytes in capacity.items()]

    def all(self) -> list[Device]:
        """As Devices."""
        return list(self._all or ())

    def known(self) -> list[Device]:
        """As Devices."""
        return self.all()


def rehearse(real: Holdings, limits: Limits, capacity: Mapping[str, int], steps: Sequence[Header]) -> dict[str, Any]:
    """What each step leads to, one after the other on empty devices, until one cannot be done.

    real: whose devices and programs they are about. capacity: bytes of each device. steps: requests to load, run,
    unload and measure, a run with what its load says too.
    Returns for each step the bytes held on each device, the most held during it, what each model holds at its end and
    what was measured; and where a step fails, its error. Raises Missing for programs that the client has not sent.
    """
    stand_ins = RehearsedDevices(real.devices, capacity)
    holdings = Holdings(stand_ins, Models(limits, RehearsedWeights), real.programs)
    done: list[dict[str, Any]] = []
    try:
        for step in steps:
            for device in stand_ins.all():
                device.peak = device.held
            measured = None
            try:
                if step["do"] == "measure":
                    measured = measurement(holdings, limits, step)
                else:
                    _do(holdings, step)
            except Missing:
                raise
            except RequestError as error:
                return {"steps": done, "error": error.reply()}
            held = {device.name: [device.held, device.peak] for device in stand_ins.all()}
            done.append({"held": held, "models": holdings.report(), "measured": measured})
    finally:
        for (digest, place), _ in list(holdings.models.all()):
            holdings.models.unload((digest, place))
    return {"steps": done}


def _do(holdings: Holdings, step: Header) -> None:
    if step["do"] == "unload":
        holdings.unload(step)
        return
    while True:
        try:
            if step["do"] == "run":
                holdings.graph(step)
            else:
                holdings.load(step, _ignore, _never)
            return
        except Missing as missing:
            what = missing.details["what"]
            if what == "program":
                raise
            if what == "arrays":
                _fill(holdings, step)
            else:
                _do(holdings, {**step, "do": "load"})


def _fill(holdings: Holdings, step: Header) -> None:
    """Give every array of a set its content, which is none."""
    arrays = holdings.models.arrays(holdings.devices.find(step["device"]))
    for _, digest, type_, shape in step["arrays"]:
        layout = LAYOUTS[type_]
        arrays.fill(digest, np.empty(prod(shape) // layout.block * layout.nbytes, np.uint8))


def _ignore(_done: int, _total: int) -> None:
    """Nobody watches."""


def _never() -> bool:
    return False
