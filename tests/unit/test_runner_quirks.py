"""The traits of devices by their real names, and that ggml-vulkan gets the settings that follow from them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from native.client import Runner, RunnerError
from native.runner.device import quirks as traits
from native.runner.device.devices import Devices
from native.runner.device.quirks import traits_of
from native.runner.device.vulkan_info import VulkanFacts, VulkanUnavailable, is_small_bar, without_unusable
from native.wire.messages import DeviceInfo
from tests.runner_toys import NO_WEIGHTS, Table, new_runner

OLD = ("warp size 64", "shared memory 65536")
RDNA = ("fp16", *OLD)
COOPMAT = ("fp16 dot2", "bf16", *OLD, "int dot", "matrix cores KHR_coopmat")

CASES = {
    ("AMD EPYC", "CPU", ("AVX2",), "linux"): traits.CPU,
    ("Intel(R) Xeon(R) Platinum 8481C", "CPU", ("AVX512", traits.HALF_SUMS), "linux"): traits.CPU_HALF_SUMS,
    ("AMD Ryzen 5 3400G with Radeon Vega Graphics", "CPU", ("AVX2",), "win32"): traits.CPU,
    ("llvmpipe (LLVM 15.0.6, 256 bits)", "GPU", RDNA, "linux"): traits.SOFTWARE,
    ("SwiftShader Device (Subzero)", "GPU", (), "win32"): traits.SOFTWARE,
    ("AMD Radeon RX 580 (RADV POLARIS10)", "GPU", OLD, "linux"): traits.GCN,
    ("AMD Radeon RX 580 2048SP (RADV POLARIS10)", "GPU", OLD, "linux"): traits.GCN,
    ("AMD Radeon RX 460 Graphics (RADV POLARIS11)", "GPU", OLD, "linux"): traits.GCN,
    ("Radeon RX 580 Series", "GPU", OLD, "win32"): traits.GCN,
    ("Radeon RX 570 Series", "GPU", OLD, "win32"): traits.GCN,
    ("Radeon (TM) RX 480 Graphics", "GPU", OLD, "win32"): traits.GCN,
    ("Radeon RX550/550 Series", "GPU", OLD, "win32"): traits.GCN,
    ("AMD Radeon R9 390 Series (RADV HAWAII)", "GPU", OLD, "linux"): traits.GCN,
    ("AMD Radeon (TM) R9 380 Series", "GPU", OLD, "win32"): traits.GCN,
    ("AMD Radeon RX Vega (RADV VEGA10)", "GPU", RDNA, "linux"): traits.GCN,
    ("AMD Radeon VII (RADV VEGA20)", "GPU", RDNA, "linux"): traits.GCN,
    ("Radeon Pro WX 7100 Graphics", "GPU", OLD, "win32"): traits.GCN,
    ("gfx803", "GPU", (), "linux"): traits.GCN,
    ("AMD Radeon Graphics", "GPU", OLD, "linux"): traits.GCN,  # no name, but no fp16 either
    ("AMD Radeon Vega 11 Graphics (RADV RAVEN)", "IGPU", RDNA, "linux"): traits.INTEGRATED,
    ("Intel(R) UHD Graphics 630 (CFL GT2)", "IGPU", ("fp16", "warp size 32"), "linux"): traits.INTEGRATED,
    ("AMD Radeon RX 5700 XT (RADV NAVI10)", "GPU", RDNA, "linux"): traits.WATCHED,
    ("AMD Radeon RX 6800 XT", "GPU", RDNA, "win32"): traits.WATCHED,
    ("AMD Radeon RX 6400 (RADV NAVI24)", "GPU", RDNA, "linux"): traits.WATCHED,
    ("Radeon 8060S Graphics (RADV GFX1151)", "IGPU", COOPMAT, "linux"): traits.WATCHED,
    ("NVIDIA GeForce GTX 1070", "GPU", ("warp size 32",), "win32"): traits.WATCHED,
    ("AMD Radeon RX 7900 XTX (RADV NAVI31)", "GPU", COOPMAT, "linux"): traits.WATCHED_FAST,
    ("NVIDIA GeForce RTX 4070", "GPU", ("fp16", "matrix cores NV_coopmat2"), "win32"): traits.WATCHED_FAST,
    ("NVIDIA GeForce RTX 4070", "GPU", ("fp16", "matrix cores NV_coopmat2"), "linux"): traits.OTHER,
    ("NVIDIA GeForce GTX 1070", "GPU", ("warp size 32",), "linux"): traits.OTHER,
    ("Intel(R) Arc(tm) A770 Graphics (DG2)", "GPU", ("fp16", "matrix cores KHR_coopmat"), "linux"): traits.OTHER,
}


@pytest.mark.parametrize(
    ("device", "expected"), CASES.items(), ids=[f"{name}, {system}" for name, _, _, system in CASES]
)
def test_rule_of_a_device(device: tuple[str, str, tuple[str, ...], str], expected: traits.Traits) -> None:
    description, type_, features, system = device
    assert traits_of(DeviceInfo("Vulkan0", type_, description, features, system=system), {}) == expected


def test_the_users_environment_counts_for_more() -> None:
    old = DeviceInfo("Vulkan0", "GPU", "Radeon RX 580 Series", OLD)
    assert traits_of(old, {}).nodes_per_submit == 16
    assert traits_of(old, {"GGML_VK_MAX_NODES_PER_SUBMIT": "40"}).nodes_per_submit == 40
    assert not traits_of(old, {}).avoids_window
    assert traits_of(old, {"GGML_VK_DISABLE_HOST_VISIBLE_VIDMEM": "1"}).avoids_window
    assert traits_of(DeviceInfo("Vulkan0", "GPU", "Radeon RX 580 Series", OLD, small_bar=True), {}).avoids_window


def test_window_without_and_with_resizable_bar() -> None:
    local, visible = 1, 2 | 4  # coherent
    types = [(local, 0), (visible, 1), (local | visible, 2), (visible | 8, 1)]
    card, ram = (7936 << 20, 1), (12 << 30, 0)
    assert is_small_bar(types, [card, ram, (256 << 20, 1)])
    assert not is_small_bar([(local, 0), (visible, 1), (local | visible, 0)], [card, ram])
    assert not is_small_bar([(local, 0), (visible, 1)], [card, ram])  # it sees nothing: nothing to avoid
    assert not is_small_bar([(local | visible, 0)], [(2 << 30, 1)])  # lavapipe, integrated GPUs


Disguised = Callable[..., Runner]


@pytest.fixture
def disguised(tmp_path: Path) -> Disguised:
    """disguised(name of the GPU, further variables): a runner that counts submits in the file `submits`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "disguise.so"
    source = Path(__file__).parents[1] / "disguise.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    (tmp_path / "submits").touch()
    fixed = {"LD_PRELOAD": str(library), "SUBMITS": str(tmp_path / "submits")}
    return lambda name, **more: new_runner(**fixed, DEVICE_NAME=name, **more)


def submits_of_a_run(runner: Runner, counted: Path, operations: int = 200) -> int:
    """Of a chain of operations that ggml-vulkan fuses none of."""
    table = Table()
    last = table.input("x", (4, 64))
    for _ in range(operations):
        last = table.op("neg", (4, 64), last)
    inputs = {"x": np.random.default_rng(1).standard_normal((4, 64)).astype("f4")}
    runner.run(NO_WEIGHTS, "Vulkan0", table.program(last), inputs)
    before = counted.stat().st_size
    (result,) = runner.run(NO_WEIGHTS, "Vulkan0", table.program(last), inputs)
    assert np.array_equal(result.reshape(4, 64), inputs["x"])
    return counted.stat().st_size - before


def test_an_rx_580_gets_small_submits_unless_the_user_says_otherwise(disguised: Disguised, tmp_path: Path) -> None:
    name, counted = "AMD Radeon RX 580 (RADV POLARIS10)", tmp_path / "submits"
    counts = {}
    cases = {"plain": ("Some GPU", {}), "old": (name, {}), "own": (name, {"GGML_VK_MAX_NODES_PER_SUBMIT": "100"})}
    for case, (device, variables) in cases.items():
        runner = disguised(device, **variables)
        vulkan = next(each for each in runner.devices() if each.name == "Vulkan0")
        assert vulkan.description == device
        assert ("at most 16 operations per submit" in vulkan.traits) == (case == "old")
        counts[case] = submits_of_a_run(runner, counted)
        runner.close()
    assert counts["plain"] == counts["own"]
    assert counts["old"] - counts["plain"] >= 200 // 17 - 200 // 100 - 1


def test_devices_without_16_bit_storage_are_not_named_to_ggml() -> None:
    facts = [("a", VulkanFacts("", False)), ("b", VulkanFacts("", False, False)), ("c", VulkanFacts("", False))]
    for given, kept in {"0,1,2": "0,2", "1, 2": "2", "0": None, "": None}.items():
        variables, said = without_unusable(facts, {"GGML_VK_VISIBLE_DEVICES": given})
        assert variables == ({} if kept is None else {"GGML_VK_VISIBLE_DEVICES": kept})
        assert len(said) == 1
        assert said[0].startswith("b cannot be used")
    assert without_unusable(facts, {"GGML_VK_VISIBLE_DEVICES": "1"})[0] == {"GGML_DISABLE_VULKAN": "1"}
    assert without_unusable(facts[:1], {"GGML_VK_VISIBLE_DEVICES": "0"}) == ({}, ())


def test_a_vulkan_that_does_not_start_says_why(tmp_path: Path) -> None:
    runner = new_runner(VK_ICD_FILENAMES=str(tmp_path / "none.json"), VK_DRIVER_FILES=str(tmp_path / "none.json"))
    try:
        assert [device.name for device in runner.devices()] == ["CPU"]
        assert runner.unusable == ("Vulkan does not start: there is no driver.",)
        with pytest.raises(RunnerError, match="no device 'Vulkan0'.*Vulkan does not start: there is no driver"):
            runner.run(NO_WEIGHTS, "Vulkan0", Table().program(), {})
    finally:
        runner.close()


def test_vulkan_is_tried_again_once_memory_is_free() -> None:
    """As where a run found none: its runner lives on."""
    answers = [VulkanUnavailable("too little memory is free"), ["a GPU", "CPU"]]

    def find_all() -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, VulkanUnavailable):
            raise answer
        return answer

    devices = Devices(["CPU"], find_all)  # type: ignore[list-item,arg-type]
    assert devices.all() == ["CPU"]
    assert devices.unusable == ("Vulkan does not start: too little memory is free.",)
    for _ in range(2):
        assert devices.all() == ["a GPU", "CPU"]


def test_an_unusable_device_is_named_and_switches_no_other_off() -> None:
    """SwiftShader, which Chromium brings, has no 16-bit storage: ggml would end the process."""
    drivers = [Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"), Path("/usr/lib/chromium/vk_swiftshader_icd.json")]
    if not all(driver.exists() for driver in drivers):
        pytest.skip("needs lavapipe and Chromium")
    runner = new_runner(VK_ICD_FILENAMES=":".join(map(str, drivers)), GGML_VK_VISIBLE_DEVICES="0,1")
    try:
        found = runner.devices()
        assert [device.name for device in found] == ["Vulkan0", "CPU"]
        assert "llvmpipe" in found[0].description
        assert len(runner.unusable) == 1
        assert "SwiftShader" in runner.unusable[0]
        assert "does not support 16-bit storage" in runner.unusable[0]
        table = Table()
        program = table.program(table.op("neg", (4,), table.input("x", (4,))))
        with pytest.raises(RunnerError, match="there is no device 'Vulkan1'.*SwiftShader.*16-bit storage"):
            runner.run(NO_WEIGHTS, "Vulkan1", program, {"x": np.ones(4, "f4")})
    finally:
        runner.close()
