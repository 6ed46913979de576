"""The probe of a card before its first use: whether it computes right, or with which features of its driver off."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from ..device_entries import read_entries, write_entries
from ..placement import CPU
from ..wire.messages import Device
from .blocks import NARROW, Block, blocks
from .check import SETTINGS, USUAL, settings_of
from .report import FAULTS, Finding, Verdict
from .results import Reference, check_operations, check_start, check_whole
from .trial import Clock, Stopped, Trial

SECONDS, LIMIT = 300.0, 120.0  # for all of it, and that one run may take while a driver compiles shaders
_BLOCK = "FLUX.1"  # it has products of quantized matrices, attention, norms and rope


@dataclass(frozen=True)
class ProbeKey:
    """A card as its probe is kept: with another driver or build of ggml it is probed anew."""

    device: str  # the driver's name for it
    driver: str
    ggml: str  # version


@dataclass(frozen=True)
class Probe:
    """A probe's outcome. wrong: what was, as the driver is, in words.

    setting: of those of a card check, with which nothing was wrong; "" where there is none.
    """

    wrong: tuple[str, ...] = ()
    setting: str = USUAL

    @property
    def off(self) -> tuple[str, ...]:
        """The variables of ggml that switch off what computes wrongly."""
        return tuple(SETTINGS.get(self.setting, {}))


@dataclass(frozen=True)
class ProbeOptions:
    """interrupted: asked whether to end. environment: of the processes that the driver is in. threads: of the CPU."""

    interrupted: Callable[[], bool] = lambda: False
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0
    seconds: float = SECONDS
    limit: float = LIMIT


def probe(device: Device, options: ProbeOptions) -> Probe:
    """Compute a small block on a card and on the processor; where they differ, again with parts of the driver off.

    The driver is in processes that may die or hang. Raises Interrupted, and Stopped where the time was up.
    """
    (block,) = (each for each in blocks() if each.name == _BLOCK)
    clock = Clock(monotonic() + options.seconds, options.limit, options.interrupted)
    with tempfile.TemporaryDirectory(prefix="ggml-probe-", ignore_cleanup_errors=True) as folder:
        threads = ("--threads", str(options.threads)) if options.threads else ()
        with closing(Trial(CPU, Path(folder), clock, {}, threads)) as processor:
            reference = Reference(processor)
            wrong: tuple[str, ...] = ()
            for setting in (USUAL, *settings_of(device)):
                environment = {**SETTINGS[setting], **options.environment}
                with closing(Trial(device.name, Path(folder), clock, environment)) as card:
                    found = tuple(_faults(card, reference, block))
                if not found:
                    return Probe(wrong, setting)
                wrong = wrong or found
    return Probe(wrong, "")


def _faults(card: Trial, reference: Reference, block: Block) -> Iterator[str]:
    """The faults of the first check that has any, in words."""
    for check in (
        partial(check_start, card),
        partial(check_operations, card, reference, block, NARROW),
        partial(check_whole, card, reference, block, NARROW),
    ):
        found: Finding = check()
        if found.verdict is Verdict.LEFT_OUT:
            raise Stopped(found.verdict, found.text)
        if found.verdict in FAULTS:
            yield from found.wrong or (f"{found.verdict.value}: {found.text}",)
            return


def read_probes(path: Path) -> dict[ProbeKey, Probe]:
    """The probes in a file; what cannot be read is left out, as it can be done again."""
    return dict(filter(None, map(_entry, read_entries(path))))


def write_probe(path: Path, key: ProbeKey, found: Probe) -> None:
    """Add a probe to a file, in the place of the one that the card had. Raises OSError."""
    held = read_probes(path)
    held.pop(key, None)
    held[key] = found
    write_entries(path, [asdict(each) | asdict(result) for each, result in held.items()])


def _entry(described: Any) -> tuple[ProbeKey, Probe] | None:
    with suppress(TypeError, KeyError):
        device, driver, ggml, setting = (str(described[name]) for name in ("device", "driver", "ggml", "setting"))
        wrong = described["wrong"]
        if isinstance(wrong, list) and (not setting or setting in SETTINGS):
            return ProbeKey(device, driver, ggml), Probe(tuple(map(str, wrong)), setting)
    return None
