"""How much of a device one component may take."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import RunnerError
from ...placement import MIB


@dataclass(frozen=True)
class Budget:
    """Bytes of a device, and how many of them the component's weights have there already."""

    total: int
    taken: int

    @property
    def headroom(self) -> int:
        """Bytes for all else; negative where the weights alone are too much."""
        return self.total - self.taken


class OverBudget(RunnerError):
    """A component for which its budget is too small; the message names the smallest that is enough."""

    def __init__(self, name: str, device: str, budget: Budget, computing: int, passing: int) -> None:
        """computing: bytes of the compute buffer and constants; passing: of what streamed weights pass through."""
        weights = budget.taken + passing
        needed = -(-(computing + weights) // MIB)
        ram = "" if passing else ', choose "ram" for its weights'
        super().__init__(
            f"The budget of {name} on {device} is {budget.total // MIB:,} MiB, but it needs {needed:,} MiB: "
            f"{weights / MIB:,.1f} for weights and {computing / MIB:,.1f} to compute. Raise the budget to "
            f"{needed:,}{ram}, or make the picture smaller."
        )
