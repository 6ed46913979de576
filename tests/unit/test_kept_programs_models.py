"""Programs kept on disk, through the components of real families: read again they are what tracing makes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.e2e.any_diffusion import SMALL, Small
from tests.e2e.test_seams_any_diffusion import sampled
from tests.e2e.test_seams_any_vae import loaded as loaded_vae
from tests.e2e.vae_kinds import KINDS, VAEKind
from tests.pack import part

ggml = part("native.engines.ggml")
kept_programs = part("nodes.components.kept_programs")
loaded_code = part("nodes.components.loaded_code")
loader = part("nodes.loaders.diffusion")
traced_module = part("nodes.components.traced_module")
weights = part("native.weights")

DIFFUSION = ("Flux", "SD15", "SDXL", "SD3", "WAN21_T2V", "LTXAV", "QwenImage", "ZImage", "HunyuanVideo")
VAES = ("SD1.5, SDXL", "TAESD", "Wan 2.1", "FLUX.2")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of each test's own; files that were changed just before the tests began count as old."""
    monkeypatch.setattr(loaded_code, "_started", time.time_ns)
    monkeypatch.setenv(kept_programs.VARIABLE, str(tmp_path / "programs"))
    return tmp_path / "programs"


@contextmanager
def session(monkeypatch: pytest.MonkeyPatch, traces: bool) -> Iterator[list[Any]]:
    """As after a start of ComfyUI: gives the programs that are used within it. traces: whether tracing is allowed."""
    used: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(traced_module, "_nestings", {})
        original = ggml.GgmlModel.lowered

        def lowered(self: Any, *args: Any) -> Any:
            used.append(original(self, *args))
            return used[-1]

        def trace(*_: Any) -> Any:
            raise AssertionError("it is traced again")

        patch.setattr(ggml.GgmlModel, "lowered", lowered)
        if not traces:
            patch.setattr(ggml, "trace", trace)
        yield used


def same(a: Any, b: Any) -> None:
    """Everything in two lowered calls, apart from how functions are held."""
    assert len(a.parts) == len(b.parts)
    for x, y in zip(a.parts, b.parts, strict=True):
        assert x.program.to_bytes() == y.program.to_bytes()
        assert (x.device_inputs, x.module_paths, x.islands, x.kept) == (
            y.device_inputs,
            y.module_paths,
            y.islands,
            y.kept,
        )
        assert x.program.outputs == y.program.outputs
        assert x.host.inputs == y.host.inputs
        assert repr(x.host.items) == repr(y.host.items)
    assert repr(a.questions) == repr(b.questions)


def compared(monkeypatch: pytest.MonkeyPatch, results: Any) -> None:
    """`results` in one session and in the next: the same programs, the same numbers, and nothing is traced again."""
    with session(monkeypatch, traces=True) as first:
        expected = results()
    with session(monkeypatch, traces=False) as second:
        found = results()
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        same(a, b)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


@pytest.mark.parametrize("small", [each for each in SMALL if each.kind in DIFFUSION], ids=lambda each: each.kind)
def test_diffusion_models(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in small.tensors().items()}, path, small.metadata)

    def results() -> torch.Tensor:
        with small.detection(), torch.inference_mode():
            ours = loader.load_diffusion(weights.read_header(path), "CPU")
        return sampled(ours, small)

    compared(monkeypatch, results)


@pytest.mark.parametrize("kind", [each for each in KINDS if each.name in VAES], ids=lambda each: each.name)
def test_autoencoders(kind: VAEKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vae.safetensors"
    save_file(kind.tensors(), path, dict(kind.metadata))

    def results() -> torch.Tensor:
        with kind.small():
            vae = loaded_vae(path)
        source = torch.Generator().manual_seed(1)
        size = {2: (8, 8), 3: (2, 8, 8)}[vae.latent_dim]
        with torch.inference_mode():
            return vae.decode(torch.randn(1, vae.latent_channels, *size, generator=source))

    compared(monkeypatch, results)
