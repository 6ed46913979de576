"""The threads of both engines of the CPU are as many as the user says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from native.client import RunnerError
from native.client import runner as client
from native.engines.ggml import GgmlModel
from native.engines.torch_cpu import TorchModel
from native.threads import VARIABLE
from tests.runner_toys import weight_file


@pytest.fixture
def layer(tmp_path: Path) -> tuple[torch.nn.Module, object]:
    ones = np.ones((256, 256), np.float32)
    weights = weight_file(tmp_path / "w.bin", {"weight": ("F32", ones.shape, ones.tobytes())})
    return torch.nn.Linear(256, 256, bias=False, device="meta"), weights


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No runner was started before."""
    monkeypatch.setattr(client, "_shared", None)


def call(module: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return module(inputs["x"])


def test_threads_of_the_runner(layer, monkeypatch):
    counts = []
    for said in ("1", "4"):
        monkeypatch.setenv(VARIABLE, said)
        monkeypatch.setattr(client, "_shared", None)
        model = GgmlModel(*layer, "CPU")
        model.run(0, call, {"x": torch.ones(64, 256)})
        counts.append(psutil.Process(model.runner.pid).num_threads())
        model.runner.close()
    assert counts[1] - counts[0] == 3


def test_threads_of_torch(layer, monkeypatch):
    usual = torch.get_num_threads()
    seen = []

    def look(module: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        seen.append(torch.get_num_threads())
        return call(module, inputs)

    for said in ("", "1", "4"):
        monkeypatch.setenv(VARIABLE, said)
        TorchModel(*layer, "CPU").run(0, look, {"x": torch.ones(4, 256)})
        assert torch.get_num_threads() == usual
    assert seen == [usual, 1, 4]


@pytest.mark.parametrize("said", ["0", "-1", "many", "1.5"])
def test_what_is_no_number_is_said(layer, monkeypatch, said):
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(RunnerError, match=f"{VARIABLE} is '{said}'"):
        GgmlModel(*layer, "CPU")
    with pytest.raises(RunnerError, match=f"{VARIABLE} is '{said}'"):
        TorchModel(*layer, "CPU").run(0, call, {"x": torch.ones(4, 256)})
