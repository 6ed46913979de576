"""Devices are measured once, while ComfyUI has nothing to do, and never again where that took the machine down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.comfy_server import eventually
from tests.pack import part

device_rates = part("nodes.planner.device_rates")
rates, messages, errors = part("native.planning.rates"), part("native.wire.messages"), part("native.errors")
RATES = rates.Rates({"add": ((1.0, 1e9),)}, 1e9, 0.0, 0.0, 1e9, date="2026-11-30")
CARD = messages.Device("Vulkan0", "a card", "GPU", 1, 1, 1, (), driver="driver 1")
SOFTWARE = messages.Device("Vulkan1", "llvmpipe", "GPU", 1, 1, 1, ("software",))


class Idle:
    """A measurement whose ComfyUI has jobs or none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.jobs: list[str] = []
        self.measured: list[str] = []
        self.fault: Exception | None = None
        queue = SimpleNamespace(get_current_queue_volatile=lambda: (self.jobs, []))
        server = SimpleNamespace(instance=SimpleNamespace(prompt_queue=queue))
        for name, value in {
            "PromptServer": server, "measure": self._measure, "IDLE": 0.0, "_POLL": 0.01,
            "another": lambda: SimpleNamespace(close=lambda: None),
            "rates_path": lambda: folder / "ggml_rates.json", "_measurement": device_rates._Measurement(),
        }.items():  # fmt: skip
            monkeypatch.setattr(device_rates, name, value)
        monkeypatch.delenv("GGML_IDLE_MEASUREMENT", raising=False)

    def _measure(self, _runner: Any, device: Any, interrupted: Any) -> Any:
        if interrupted():
            raise errors.Interrupted("a prompt came")
        self.measured.append(device.name)
        if self.fault:
            raise self.fault
        return RATES

    def over(self) -> bool:
        """Whether nothing is left to measure."""
        return device_rates._measurement._thread is None

    def ask(self, *devices: Any) -> None:
        device_rates.measure_when_idle(devices, device_rates.rates_of(devices))


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Idle:
    return Idle(monkeypatch, tmp_path)


def test_a_device_is_measured_once(idle: Idle) -> None:
    idle.ask(CARD, SOFTWARE)
    eventually(idle.over, "the measurement", 10)
    assert device_rates.rates_of([CARD, SOFTWARE]) == {"Vulkan0": RATES}
    idle.ask(CARD, SOFTWARE)
    assert idle.over()
    assert idle.measured == ["Vulkan0"]


def test_a_prompt_comes_first(idle: Idle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_rates, "IDLE", 0.01)
    idle.jobs.append("a prompt")
    idle.ask(CARD)
    thread = device_rates._measurement._thread
    thread.join(0.2)
    assert thread.is_alive()
    assert idle.measured == []
    idle.jobs.clear()
    eventually(idle.over, "the measurement", 10)
    assert idle.measured == ["Vulkan0"]


def test_what_failed_or_took_the_machine_down_is_left_alone(idle: Idle, tmp_path: Path) -> None:
    idle.fault = errors.RunnerError("the driver has a fault")
    idle.ask(CARD)
    eventually(idle.over, "the measurement", 10)
    idle.ask(CARD)
    assert idle.over()
    assert idle.measured == ["Vulkan0"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "ggml_rates.Vulkan0.trying").write_text(repr(device_rates.key_of(CARD)), encoding="utf-8")
    device_rates._measurement.__init__()  # a new session
    idle.ask(CARD)
    eventually(idle.over, "the end", 10)
    assert idle.measured == ["Vulkan0"]


def test_the_variable_switches_it_off(idle: Idle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGML_IDLE_MEASUREMENT", "0")
    idle.ask(CARD)
    assert idle.over()
    assert idle.measured == []
