"""The traits of each kind of device as one table: a new device that needs something gets a row here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf

from ...wire.messages import DeviceInfo

# Read by ggml-vulkan when a device is first used and kept with it (ggml_vk_get_device; 0.15.3, lines 5653 and 5884).
SUBMIT_VARIABLE = "GGML_VK_MAX_NODES_PER_SUBMIT"
WINDOW_VARIABLE = "GGML_VK_DISABLE_HOST_VISIBLE_VIDMEM"
HALF_SUMS = "half-precision sums"  # the feature of a CPU whose library sums F16 products so (accumulation.py)


@dataclass(frozen=True)
class Traits:
    """How to treat a device. Amounts are floating-point operations."""

    largest_segment: float  # to give it before looking whether to go on, and before it must answer
    largest_operation: float = inf  # one operation cannot be cut: what a choice of sizes should keep below
    nodes_per_submit: int | None = None  # ggml-vulkan's own are 100
    avoids_window: bool = False  # no memory that the processor sees too
    f16_as_f32: bool = False  # in products: it would sum them in half precision
    off: tuple[str, ...] = ()  # variables that switch off features with which its results are wrong


CPU = Traits(1e11)  # ggml's CPU backend also looks for an abort between any two operations
# A small T5 with F16 weights was off by 5.2e-3 on a Xeon with AVX512-FP16; on Arm models broke (llama.cpp #11920).
CPU_HALF_SUMS = replace(CPU, f16_as_f32=True)
SOFTWARE = Traits(1e9)  # about a second
# 2 s is what Windows (TDR) and amdgpu give a submit. Radeons until Polaris and Vega come back from a longer one without
# an error, with a wrong result (llama.cpp #26813): 16 nodes a submit was the remedy there, and half a GFLOP a compute
# unit the cap proposed; the smallest card here, the RX 460, has 16 units. A submit of 200 GFLOP was too long for an
# RX 580 (6.2 TFLOP/s published), so it sustained less than 0.1 TFLOP/s: one operation may take it one second.
GCN = Traits(8e9, 1e11, nodes_per_submit=16)
# llama.cpp #21724, #24872: an APU of 11 units times out where cards do not. As GCN, for 8 units.
INTEGRATED = Traits(4e9, 5e10, nodes_per_submit=16)
# 200 GFLOP a submit is what llama.cpp gives every other card (#26813). The slowest, the RX 6400 (3.6 TFLOP/s), at a
# tenth of that takes a second for a segment and two operations of it.
WATCHED = Traits(2e11, 4e11)
# With matrix cores from 6 TFLOP/s (RTX 2060): half a second at a third of that.
WATCHED_FAST = Traits(1e12, 2e12)
OTHER = Traits(1e12)  # about half a second on a middling GPU, where nothing ends a longer one
_SOFTWARE = re.compile("llvmpipe|lavapipe|swiftshader", re.IGNORECASE)
_AMD = re.compile(r"\bamd\b|radeon|\bati\b|firepro|\bgfx\d", re.IGNORECASE)
# Names of cards ("RX 580", "R9 390", "RX550/550", "Vega 8") and, behind them or alone, of chips (RADV, ROCm).
_GCN = re.compile(
    r"\brx ?[456]\d0x?\b|\br[579] (m?\d{3}|fury|nano|graphics)|\br[579] series|\bvega\b|\bhd [78]\d{3}|radeon vii\b"
    r"|\bpro (wx|\d{3}x?\b)|firepro|polaris|vega\d\d|tahiti|pitcairn|verde|oland|hainan|bonaire|hawaii|tonga|iceland"
    r"|fiji|carrizo|kaveri|kabini|mullins|stoney|raven|renoir|\bgfx([678]\d\d|90[029c])\b",
    re.IGNORECASE,
)


def _is_amd(device: DeviceInfo) -> bool:
    return bool(_AMD.search(device.description))


def _is_gcn(device: DeviceInfo) -> bool:
    """By name; or an AMD card without fp16, which all later ones have (and of these only Vega)."""
    named = bool(_GCN.search(device.description.replace("(TM)", "")))
    return _is_amd(device) and (named or bool(device.features and not device.has("fp16")))


def _is_watched(device: DeviceInfo) -> bool:
    return device.type in ("GPU", "IGPU") and (device.system == "win32" or _is_amd(device))


def _is_fast(device: DeviceInfo) -> bool:
    return device.type == "GPU" and device.has("matrix cores")


RULES: tuple[tuple[Callable[[DeviceInfo], bool], Traits], ...] = (  # the first that applies
    (lambda device: device.type == "CPU" and device.has(HALF_SUMS), CPU_HALF_SUMS),
    (lambda device: device.type == "CPU", CPU),
    (lambda device: is_software(device.description), SOFTWARE),
    (lambda device: _is_gcn(device) and device.type == "GPU", GCN),
    (lambda device: device.type == "IGPU" and not device.has("matrix cores"), INTEGRATED),
    (lambda device: _is_watched(device) and _is_fast(device), WATCHED_FAST),
    (_is_watched, WATCHED),
    (lambda device: True, OTHER),
)


def is_software(description: str) -> bool:
    """Whether that is a Vulkan driver which computes on the processor."""
    return bool(_SOFTWARE.search(description))


def traits_of(device: DeviceInfo, environment: Mapping[str, str] = os.environ) -> Traits:
    """Look a device's traits up; the user's own environment variables count for more than the table.

    Without resizable BAR ggml would fill the small window first, in which RADV lets buffers wander off to the
    processor's memory: 2 to 5 times slower (llama.cpp #27097, a switch it only has by hand).
    """
    found = next(traits for applies, traits in RULES if applies(device))
    own = environment.get(SUBMIT_VARIABLE, "")
    nodes = int(own) if own.isdecimal() else found.nodes_per_submit
    avoids_window = device.small_bar or WINDOW_VARIABLE in environment
    return replace(found, nodes_per_submit=nodes, avoids_window=avoids_window, off=device.off)


@contextmanager
def starting(traits: Traits) -> Iterator[None]:
    """Set the environment variables that ggml reads at the first use of a device, except those the user has set."""
    wanted = {}
    if traits.nodes_per_submit is not None:
        wanted[SUBMIT_VARIABLE] = str(traits.nodes_per_submit)
    if traits.avoids_window:
        wanted[WINDOW_VARIABLE] = "1"
    wanted |= dict.fromkeys(traits.off, "1")
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)  # which calls putenv, so that getenv finds it
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def describe_traits(traits: Traits) -> tuple[str, ...]:
    """The traits that matter to a person."""
    said = []
    if traits.nodes_per_submit is not None:
        said.append(f"at most {traits.nodes_per_submit} operations per submit")
    if traits.largest_operation < inf:
        said.append(f"waits after each {traits.largest_segment / 1e9:,.0f} GFLOP, as its driver ends work of 2 seconds")
    if traits.avoids_window:
        said.append("no resizable BAR: its memory that the processor can see is not used")
    if traits.off:
        said.append(f"its results are wrong but with {', '.join(traits.off)}")
    if traits.f16_as_f32:
        said.append("computes with F16 weights as F32, as its library sums F16 products in half precision")
    return tuple(said)
