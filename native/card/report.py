"""The outcome of a card check as data: what was found, the rates, and their conditions; and that as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum

from ..wire.messages import Device

FORMAT = 1  # of the JSON


class Verdict(Enum):
    """How a check ended."""

    RIGHT = "right"
    WRONG = "wrong"  # results are not the processor's
    DIED = "died"  # the process that the driver was in ended
    HUNG = "hung"  # it gave no sign of life within the limit, and was ended
    REFUSED = "refused"  # the driver said no
    LEFT_OUT = "left out"  # the time was up, or what came before makes it pointless


FAULTS = (Verdict.WRONG, Verdict.DIED, Verdict.HUNG, Verdict.REFUSED)


@dataclass(frozen=True)
class Finding:
    """A check and how it ended. wrong: the operations whose results are wrong, in words."""

    check: str
    verdict: Verdict
    text: str = ""
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rate:
    """How fast something was under a setting of the driver.

    amount: floating-point operations, or bytes, of one time; seconds: of the fastest of several times.
    """

    name: str
    setting: str
    seconds: float
    amount: float
    unit: str  # "FLOP" or "B"

    @property
    def per_second(self) -> float:
        """Operations or bytes a second."""
        return self.amount / self.seconds


@dataclass(frozen=True)
class CardReport:
    """All that a check found."""

    device: Device
    system: str
    builds: Mapping[str, str]  # versions of what takes part
    began: str  # date and time
    seconds: float = 0.0
    settings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    rates: tuple[Rate, ...] = ()
    peak: tuple[float, float] | None = None  # published: F32 FLOP/s without matrix cores, bytes/s

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that are faults."""
        return tuple(each for each in self.findings if each.verdict in FAULTS)

    def summary(self) -> str:
        """The outcome in a sentence or two."""
        if not self.findings:
            return "Nothing was checked."
        left = [each.check for each in self.findings if each.verdict is Verdict.LEFT_OUT]
        unchecked = f" Not checked: {', '.join(left)}." if left else ""
        if not self.faults:
            return f"No fault was found.{unchecked}"
        faults = "; ".join(f"{each.check}: {each.verdict.value}" for each in self.faults)
        return f"Faults were found: {faults}.{unchecked}"


def to_json(report: CardReport) -> str:
    """The report for programs; amounts in FLOP and bytes, times in seconds."""
    found = asdict(report) | {"format": FORMAT, "summary": report.summary()}
    found["findings"] = [asdict(each) | {"verdict": each.verdict.value} for each in report.findings]
    found["rates"] = [asdict(each) | {"per_second": each.per_second} for each in report.rates]
    return json.dumps(found, indent=2) + "\n"
