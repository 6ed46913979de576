"""Hardware profiles: what a description of a machine makes of it, and how its devices are then treated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from native.client import Runner
from native.placement import RAM, Placement
from native.planning import ProfileError, described_machine, known_profiles, profile_of, read_profiles
from native.runner.device.quirks import GCN, INTEGRATED, OTHER, WATCHED, WATCHED_FAST, traits_of
from native.wire.messages import DeviceInfo, Step
from tests.runner_toys import new_runner
from tests.unit.test_runner_dry_run import chain, layers

MIB = 1 << 20
GPU = {"description": "AMD Radeon RX 580 Series", "memory": 8192}
MACHINE = {"name": "mine", "system": "linux", "ram": 16384, "gpus": [GPU]}
TRAITS = {
    "RX 580 8 GB, Linux": GCN, "RX 580 8 GB, Windows": GCN, "RX 570 4 GB, Linux": GCN,
    "RX 5700 XT 8 GB, Windows": WATCHED, "RX 6600 8 GB, Linux": WATCHED, "GTX 1070 8 GB, Windows": WATCHED,
    "GTX 1060 6 GB, Windows": WATCHED, "RTX 3060 12 GB, Windows": WATCHED_FAST, "Arc A750 8 GB, Linux": OTHER,
    "Radeon 780M, 32 GB of RAM, Linux": WATCHED, "Vega 8, 16 GB of RAM, Windows": INTEGRATED,
    "Iris Xe, 16 GB of RAM, Windows": INTEGRATED,
}  # fmt: skip


@pytest.mark.parametrize("name", list(known_profiles()))
def test_known_cards_are_treated_as_what_they_are(name: str) -> None:
    gpu = known_profiles()[name].foreign[0]
    found = traits_of(gpu, {})
    wanted = TRAITS[name]
    assert (found.largest_segment, found.nodes_per_submit) == (wanted.largest_segment, wanted.nodes_per_submit)
    assert found.avoids_window == gpu.small_bar


def test_amounts() -> None:
    gpu, cpu = profile_of({**MACHINE, "gpus": [{**GPU, "free": 7000}], "ram_free": 9000}).devices
    assert (gpu.name, gpu.total, gpu.free, gpu.largest_buffer) == ("Vulkan0", 8192 * MIB, 7000 * MIB, 1 << 30)
    assert (cpu.name, cpu.type, cpu.total, cpu.free) == ("CPU", "CPU", 16384 * MIB, 9000 * MIB)
    assert profile_of(MACHINE).devices[1].free == (16384 - 3072) * MIB


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ([], "JSON object"),
        ({**MACHINE, "name": 7}, "needs a name"),
        ({**MACHINE, "system": "amiga"}, "the system of 'mine' is 'amiga'"),
        ({**MACHINE, "ram": None}, "ram must be a whole number of MiB"),
        ({**MACHINE, "ram": 16.5}, "and is 16.5"),
        ({**MACHINE, "gpus": {}}, "the gpus of 'mine' must be a list"),
        ({**MACHINE, "gpus": [7]}, "the gpus of 'mine' must be a list"),
        ({**MACHINE, "gpus": [{**GPU, "type": "TPU"}]}, "is 'TPU'"),
        ({**MACHINE, "gpus": [{**GPU, "features": "fp16"}]}, "features"),
        ({**MACHINE, "gpus": [{**GPU, "memory": -1}]}, "memory must be"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(described: Any, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profile_of(described)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "profiles.json"
    assert read_profiles(file) == {}
    file.write_text(json.dumps([MACHINE]), encoding="utf-8")
    assert read_profiles(file) == {"mine": profile_of(MACHINE)}
    for content in ("{", "{}", json.dumps([{**MACHINE, "ram": 0.5}])):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ProfileError, match=r"profiles\.json"):
            read_profiles(file)


def test_a_description_is_read_as_it_was_told() -> None:
    for profile in known_profiles().values():
        read = profile_of({**described_machine(profile.devices, profile.foreign[0].system), "name": profile.name})
        assert read.foreign == profile.foreign
        assert [(d.free, d.total, d.type) for d in read.devices] == [(d.free, d.total, d.type) for d in profile.devices]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner()
    yield runner
    runner.close()


def test_a_card_that_is_not_there_is_treated_as_it_would_be(runner: Runner, tmp_path: Path) -> None:
    """An RX 580's driver ends an operation that an Arc's lets go on."""
    weights, program = layers(tmp_path / "w", "F16"), chain("F16", 3)
    limits = []
    for name in ("RX 580 8 GB, Linux", "Arc A750 8 GB, Linux"):
        steps = [Step("estimate", weights, Placement("Vulkan0", RAM), program)]
        done = runner.dry_run({"Vulkan0": 8 << 30}, steps, known_profiles()[name].foreign)
        assert done.steps[0].measured is not None
        limits.append(done.steps[0].measured.operation_limit)
    assert limits == [GCN.largest_operation, OTHER.largest_operation]


def test_a_gpu_without_memory_of_its_own_takes_ram(runner: Runner, tmp_path: Path) -> None:
    weights = layers(tmp_path / "w", "F16")  # 3.1 MB
    for kind, fits in (("GPU", True), ("IGPU", False)):
        gpu = DeviceInfo("Vulkan0", kind, "AMD Radeon 780M", ("fp16",), False, "linux")
        cpu = DeviceInfo("CPU", "CPU", "CPU", (), False, "linux")
        more = weights.with_arrays({"lora": np.zeros((2 * MIB,), "f4")})  # 8 MiB on the CPU
        steps = [Step("load", more, Placement("CPU", RAM)), Step("load", weights, Placement("Vulkan0", "device"))]
        done = runner.dry_run({"Vulkan0": 64 * MIB, "CPU": 9 * MIB}, steps, (gpu, cpu))
        assert (done.error is None) == fits
