"""The probe of a card at its first use: a driver that computes wrongly is used where it is right."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from native.card.blocks import NARROW, blocks
from native.card.probe import Probe, ProbeKey, ProbeOptions, probe, read_probes, write_probe
from native.card.report import Verdict
from native.card.trial import Clock, Stopped, Trial
from native.client import Device, Runner
from tests import pack

from .test_card_check import SOFTWARE, planted

__all__ = ["planted"]
Planted = Callable[[str], Mapping[str, str]]
KEY = ProbeKey("A card", "1.2.3", "0.15")


def lavapipe() -> Device:
    runner = Runner((), SOFTWARE)
    try:
        (found,) = (each for each in runner.devices() if each.type != "CPU")
    finally:
        runner.close()
    return found


@pytest.fixture(scope="module")
def device() -> Device:
    return lavapipe()


def test_nothing_is_wrong(device: Device) -> None:
    assert probe(device, ProbeOptions(environment=SOFTWARE, threads=2, seconds=900, limit=300)) == Probe()


def test_what_is_wrong_with_fp16_is_right_without(device: Device, planted: Planted) -> None:
    found = probe(device, ProbeOptions(environment=planted("skips with fp16"), threads=2, seconds=900, limit=300))
    assert found.wrong
    assert found.setting == "without fp16"
    assert found.off == ("GGML_VK_DISABLE_F16",)


def test_what_nothing_repairs(device: Device, planted: Planted) -> None:
    found = probe(device, ProbeOptions(environment=planted("zeros"), threads=2, seconds=900, limit=300))
    assert "are 0 instead" in found.wrong[0]
    assert not found.setting
    assert not found.off


def test_time_that_is_up_is_no_finding(device: Device) -> None:
    with pytest.raises(Stopped) as caught:
        probe(device, ProbeOptions(environment=SOFTWARE, seconds=0.0))
    assert caught.value.verdict is Verdict.LEFT_OUT


def test_a_probe_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "probes.json"
    found = Probe(("mul_mat: off",), "without fp16")
    write_probe(path, KEY, Probe())
    write_probe(path, replace(KEY, driver="2"), found)
    assert read_probes(path) == {KEY: Probe(), replace(KEY, driver="2"): found}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "devices": [{"device": "x"}]}'])
def test_a_damaged_file_is_no_probe(text: str, tmp_path: Path) -> None:
    path = tmp_path / "probes.json"
    path.write_text(text, encoding="utf-8")
    assert read_probes(path) == {}


def _computed(folder: Path, environment: Mapping[str, str], *options: str) -> list[np.ndarray]:
    """A block of a model on lavapipe."""
    trial = Trial("Vulkan0", folder, Clock(time.monotonic() + 900, 300), SOFTWARE | environment, options)
    try:
        return trial.run(blocks()[0].work(NARROW))
    finally:
        trial.close()


def test_what_is_switched_off_is_off(device: Device, tmp_path: Path) -> None:
    """For that card with that driver alone; it computes as with the variable set for the whole process."""
    off = "--off", device.description, device.driver, "GGML_VK_DISABLE_F16"
    with_fp16 = _computed(tmp_path, {}, *off[:2], "another driver", off[3])
    without, as_the_process = _computed(tmp_path, {}, *off), _computed(tmp_path, {"GGML_VK_DISABLE_F16": "1"})
    for with_it, here, there in zip(with_fp16, without, as_the_process, strict=True):
        assert np.array_equal(here, there)
        assert not np.array_equal(here, with_it)


class _FirstUse:
    """The first use of lavapipe as if it were a card, in a ComfyUI with a user folder of its own."""

    def __init__(self, folder: Path, device: Device, patch: pytest.MonkeyPatch) -> None:
        self.module = pack.part("nodes.loaders.first_use")
        self.client = pack.part("native.client.runner")
        self.path = folder / "ggml_probes.json"
        card = replace(device, features=tuple(each for each in device.features if each != "software"))
        patch.setattr(self.module, "probes_path", lambda: self.path)
        patch.setattr(type(self.module.COMFYUI), "devices", lambda _: [card])
        patch.setattr(self.module, "_seen", set())

    def use(self) -> None:
        self.module.probe_at_first_use("Vulkan0")

    def again(self) -> None:
        """As after a restart."""
        self.module._seen.clear()
        self.use()


@pytest.fixture
def first(tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[_FirstUse]:
    monkeypatch.delenv("GGML_PROBE")
    found = _FirstUse(tmp_path, device, monkeypatch)
    yield found
    found.client.switch_off(())


def test_first_use(
    first: _FirstUse, planted: Planted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what is wrong, keeps it, and uses the card without fp16 from then on; it is probed once."""
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        for name, value in planted("skips with fp16").items():
            patch.setenv(name, value)
        first.use()
    assert "for the first time" in caplog.text
    assert "Its results are right without fp16" in caplog.text
    (variable,) = (variable for _, _, variable in first.client._off)
    assert variable == "GGML_VK_DISABLE_F16"
    written = first.path.stat().st_mtime_ns
    caplog.clear()
    first.again()
    assert "Its results are right without fp16" in caplog.text
    assert "for the first time" not in caplog.text
    assert first.path.stat().st_mtime_ns == written


def test_a_machine_that_went_down_is_not_taken_down_again(first: _FirstUse, caplog: pytest.LogCaptureFixture) -> None:
    """The mark of a probe that came to no end stays."""
    module = first.module
    device = module.COMFYUI.devices()[0]
    key = module.ProbeKey(device.description, device.driver, module.installed_version())
    first.path.with_suffix(".trying").write_text(repr(key), encoding="utf-8")
    first.use()
    assert "the machine went down" in caplog.text
    assert not first.path.exists()


def test_it_can_be_switched_off(first: _FirstUse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGML_PROBE", "0")
    first.use()
    assert not first.path.exists()
