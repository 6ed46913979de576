"""The device input: what it offers, what it accepts, what `auto` means; no runner is started for looking at nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.pack import part

placement, host = part("nodes.loaders.device_inputs"), part("nodes.components.host")
client = part("native.client")


def device(name: str, type_: str, *features: str) -> object:
    return client.Device(name, f"a {name}", type_, 3 << 30, 4 << 30, 1 << 30, features)


CPU = device("CPU", "CPU")
LAVAPIPE = device("Vulkan0", "GPU", "software")
INTEGRATED = device("Vulkan0", "IGPU")
RADEON = device("Vulkan1", "GPU", "fp16")


class Machine:
    """A runner that has devices, and counts how often it was asked."""

    def __init__(self, *found: object) -> None:
        self.found = list(found)
        self.asked = 0

    def devices(self) -> list[object]:
        self.asked += 1
        return self.found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    found = Machine(INTEGRATED, RADEON, CPU)
    monkeypatch.setattr(host, "shared", lambda: found)
    monkeypatch.setattr(host.COMFYUI, "device_names", [])
    return found


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([CPU], "CPU"),
        ([LAVAPIPE, CPU], "CPU"),
        ([INTEGRATED, CPU], "Vulkan0"),
        ([INTEGRATED, RADEON, CPU], "Vulkan1"),
        ([LAVAPIPE, RADEON, CPU], "Vulkan1"),
    ],
)
def test_auto_is_the_first_gpu_that_is_not_software(found: list[object], expected: str) -> None:
    assert placement.first_gpu(found) == expected


def test_auto_differs_by_component(machine: Machine) -> None:
    assert placement.diffusion_device("auto") == "Vulkan1"
    assert placement.companion_device("auto") == "CPU"
    assert placement.diffusion_device("CPU") == placement.companion_device("CPU") == "CPU"


def test_in_a_dry_run_devices_are_those_of_the_machine_that_is_planned_for(machine: Machine) -> None:
    planned = part("native.planning").Machine((RADEON, CPU), {"Vulkan1": 1, "CPU": 1}, profile="a profile")
    with host.dry_run_host(part("native.engines.dry_run").Recorder(None, planned)):
        assert placement.diffusion_device("auto") == placement.companion_device("Vulkan1") == "Vulkan1"
        with pytest.raises(client.RunnerError, match="a profile has no device Vulkan0. It has: Vulkan1 "):
            placement.diffusion_device("Vulkan0")
    assert placement.diffusion_device("Vulkan0") == "Vulkan0"  # here the runner would say it when it loads
    assert machine.asked == 0


def test_options_are_the_usual_ones_until_the_machine_was_asked(machine: Machine) -> None:
    assert placement.device_options() == ["auto", "CPU", "Vulkan0", "Vulkan1"]
    assert machine.asked == 0
    machine.found = [RADEON, CPU]
    placement.devices()
    assert placement.device_options() == ["auto", "Vulkan1", "CPU"]


@pytest.mark.parametrize("name", ["auto", "CPU"])
def test_what_every_machine_has_is_not_asked_for(machine: Machine, name: str) -> None:
    assert asyncio.run(placement.check_device(name)) is True
    assert machine.asked == 0


@pytest.mark.parametrize(("device_name", "fits"), [("auto", True), ("CPU", True), (None, True), ("Vulkan1", False)])
def test_torch_computes_on_the_cpu_only(machine: Machine, device_name: str | None, fits: bool) -> None:
    found = asyncio.run(placement.check_device(device_name, "torch"))
    assert found is True if fits else "torch computes on the CPU only, not on Vulkan1" in found


def test_device_there_is_accepted_and_remembered(machine: Machine) -> None:
    assert asyncio.run(placement.check_device("Vulkan1")) is True
    assert asyncio.run(placement.check_device("Vulkan0")) is True
    assert machine.asked == 1


def test_device_not_there_is_named_with_those_that_are(machine: Machine) -> None:
    message = asyncio.run(placement.check_device("CUDA3"))
    assert "no device CUDA3" in message
    assert "Vulkan1 (a Vulkan1)" in message


def test_runner_that_does_not_start_says_why(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[object]:
        raise client.RunnerError("ggml cannot be loaded")

    monkeypatch.setattr(machine, "devices", broken)
    assert asyncio.run(placement.check_device("Vulkan0")) == "ggml cannot be loaded"


def test_devices_node_says_what_there_is() -> None:
    text = part("nodes.devices").describe([RADEON, CPU])
    assert (
        "Vulkan1: a Vulkan1 (GPU)\n  memory: 3.0 of 4.0 GiB free\n  largest buffer: 1.0 GiB\n  features: fp16" in text
    )
    treated = ("at most 16 operations per submit",)
    old = client.Device("Vulkan0", "an RX 580", "GPU", 1, 1, 1, (), treated, driver="radv Mesa 25.2.4")
    described = part("nodes.devices").describe([old]).splitlines()
    assert described[-3:-1] == ["  driver: radv Mesa 25.2.4", "  at most 16 operations per submit"]
    assert text.endswith("auto is Vulkan1 for the diffusion model, CPU for text encoders and the VAE.")
