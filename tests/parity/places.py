"""Where parity is measured, and how far a result may be from torch's F32 there (relative L2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from native.client import Runner
from native.lower import LowerOptions
from tests.runner_toys import new_runner


@dataclass(frozen=True)
class Place:
    """A device under one setting of its driver.

    exact: tolerance of arithmetic in F32; gelu: where GELU takes part, which ggml's CPU backend reads from a table of
    F16 values (ggml-cpu/vec.h, ggml_table_gelu_f16); activation_scale: for models whose activations pass F16.
    """

    name: str
    device: str
    environment: Mapping[str, str]
    exact: float
    gelu: float
    activation_scale: float = 1.0
    options: tuple[str, ...] = ()  # of the runner

    @property
    def wide(self) -> LowerOptions:
        """How such models are lowered for this place."""
        return LowerOptions(activation_scale=self.activation_scale, islands=False)

    def runner(self) -> Runner:
        """A runner process with this setting."""
        return new_runner(*self.options, **self.environment)


# As on a CPU whose library sums products of F16 values in half precision.
CPU_HALF_SUMS = Place("CPU-half-sums", "CPU", {}, 1e-5, 1e-3, 64.0, ("--half-sums",))
PLACES = (
    Place("CPU", "CPU", {}, 1e-5, 1e-3, 64.0),
    Place("Vulkan-F32", "Vulkan0", {"GGML_VK_DISABLE_F16": "1"}, 1e-4, 1e-4),
    Place("Vulkan-F16", "Vulkan0", {}, 2e-2, 2e-2, 64.0),
)
