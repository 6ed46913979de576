"""Rates are measured with the runner's own code: every kind has one, and they can be kept and used."""

from __future__ import annotations

from pathlib import Path

import pytest

from native.client import Interrupted
from native.engines import rate_measurement, shortest
from native.engines.rate_measurement import measure
from native.planning.rates_file import RatesKey, read_rates, write_rates
from tests.runner_toys import linear, new_runner


def test_the_processor_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_measurement, "TYPES", ("F32", "F16", "Q4_0"))
    monkeypatch.setattr(shortest, "_MOST", 1)
    runner = new_runner()
    try:
        (processor,) = (device for device in runner.devices() if device.type == "CPU")
        rates = measure(runner, processor)
        assert runner.memory().models == ()
        with pytest.raises(Interrupted):
            measure(runner, processor, lambda: True)
    finally:
        runner.close()
    others = {"add", "gelu", "norm", "transpose", "rope", "concat", "broadcast", "upscale"}
    assert {"mul_mat F32", "mul_mat Q4_0", "flash_attn F32", "conv_2d F16", *others} <= rates.curves.keys()
    assert rates.torch is not None
    assert {"mul_mat Q4_0", "flash_attn F32", "conv_2d F32", *others - {"rope"}} <= rates.torch.curves.keys()
    for each in (rates, rates.torch):
        assert each.seconds(linear(512, 512, 256)) < each.seconds(linear(1024, 1024, 1024))
    key = RatesKey(processor.description, processor.driver, "0.0.45", 2)
    write_rates(tmp_path / "rates.json", key, rates)
    assert read_rates(tmp_path / "rates.json") == {key: rates}
