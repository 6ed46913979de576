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

from tests import random_models
from tests.e2e.any_diffusion import SMALL, Small
from tests.e2e.test_seams_any_diffusion import sampled
from tests.e2e.test_seams_any_vae import loaded as loaded_vae
from tests.e2e.vae_kinds import KINDS, VAEKind
from tests.pack import part

client = part("native.client")
dry_run = part("native.engines.dry_run")
ggml = part("native.engines.ggml")
kept = part("native.engines.kept")
kept_programs = part("nodes.components.kept_programs")
loader = part("nodes.loaders.diffusion")
placement = part("native.placement")
run_code = part("nodes.components.run_code")
text_encoders = part("nodes.loaders.text_encoders")
traced_module = part("nodes.components.traced_module")
weights = part("native.weights")

import comfy.ldm.flux.layers  # noqa: E402
import comfy.ldm.flux.math  # noqa: E402
import comfy.ldm.flux.model  # noqa: E402

DIFFUSION = ("Flux", "SD15", "ZImage")
VAES = ("SD1.5, SDXL", "Wan 2.1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of each test's own; files that were changed just before the tests began count as old."""
    monkeypatch.setattr(run_code, "_started", time.time_ns)
    monkeypatch.setenv(kept_programs.VARIABLE, str(tmp_path / "programs"))
    return tmp_path / "programs"


@contextmanager
def session(monkeypatch: pytest.MonkeyPatch, traces: bool) -> Iterator[list[Any]]:
    """As after a start of ComfyUI: gives the programs that are used within it. traces: whether tracing is allowed."""
    used: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(traced_module, "_nestings", {})
        patch.setattr(traced_module, "_marks", {})
        for name in ("_programs", "_traces"):
            patch.setattr(dry_run, name, kept.Kept())
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


def small_file(small: Small, path: Path) -> Path:
    save_file({name: value.contiguous() for name, value in small.tensors().items()}, path, small.metadata)
    return path


def drawn(small: Small, path: Path) -> torch.Tensor:
    """The picture of a new model of this file."""
    with small.detection(), torch.inference_mode():
        ours = loader.load_diffusion(weights.read_header(path), "CPU")
    return sampled(ours, small)


def _other_rope(xq: Any, xk: Any, _freqs: Any) -> Any:
    return xq, xk


PATCHES = {
    "function": lambda patch: patch.setattr(comfy.ldm.flux.math, "apply_rope", _other_rope),
    "attention": lambda patch: patch.setattr(
        comfy.ldm.flux.layers, "attention", lambda q, k, v, **_: v.transpose(1, 2).flatten(2)
    ),
    "forward": lambda patch: patch.setattr(
        comfy.ldm.flux.layers.MLPEmbedder, "forward", lambda self, x: self.in_layer(x)
    ),
    "import": lambda patch: patch.setattr(comfy.ldm.flux.model, "timestep_embedding", _embedding),
}


def _embedding(t: Any, dim: int, *_: Any) -> Any:
    return t[:, None].expand(-1, dim)


@pytest.mark.parametrize("name", PATCHES)
def test_a_patched_flux_is_not_served_the_program_of_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    small = next(each for each in SMALL if each.kind == "Flux")
    path = small_file(small, tmp_path / "model.safetensors")
    with session(monkeypatch, traces=True):
        before = drawn(small, path)
    held = {each.name: each.read_bytes() for each in folder.iterdir()}
    with monkeypatch.context() as patch:
        PATCHES[name](patch)
        with session(monkeypatch, traces=True):
            found = drawn(small, path)
        patch.setenv(kept_programs.VARIABLE, "0")
        with session(monkeypatch, traces=True):
            expected = drawn(small, path)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert not torch.equal(found, before)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == held
    with session(monkeypatch, traces=False):
        np.testing.assert_array_equal(drawn(small, path).numpy(), before.numpy())


def encoded(path: Path) -> torch.Tensor:
    """The pooled state of an encoder."""
    clip, _ = text_encoders.load_encoders([weights.read_header(str(path))], "auto", placement.Placement("CPU"))
    module = clip.cond_stage_model.clip_l.transformer
    width = module.engine_model.module.text_model.final_layer_norm.weight.shape[0]
    embeds = torch.randn(1, 77, width, generator=torch.Generator().manual_seed(2))
    result: torch.Tensor = module(None, None, embeds=embeds, num_tokens=[77], intermediate_output=-2)[0]
    return result


def test_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_models.write_safetensors(tmp_path / "clip_l.safetensors", random_models.clip_l())
    compared(monkeypatch, lambda: encoded(tmp_path / "clip_l.safetensors"))


def test_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_models.write_safetensors(tmp_path / "clip_l.safetensors", random_models.clip_l())
    cpu = client.Device("CPU", "CPU", "a processor", 1 << 40, 1 << 40, 1 << 40, ())
    machine = part("native.planning").Machine((cpu,), {"CPU": 1 << 40})

    def planned() -> tuple[list[bytes], Any]:
        recorder = dry_run.Recorder(client.shared(), machine)
        with part("nodes.components.host").dry_run_host(recorder):
            encoded(tmp_path / "clip_l.safetensors")
        programs = [step.program.to_bytes() for step, _ in recorder.steps if step.program]
        return programs, recorder.plan().peaks

    with session(monkeypatch, traces=True):
        expected = planned()
    with session(monkeypatch, traces=False):
        found = planned()
    assert expected[0]
    assert found == expected


def test_marks_that_a_module_notes_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes that a module notes of a call are there as if it had been traced."""
    small = next(each for each in SMALL if each.kind == "Flux")
    path = small_file(small, tmp_path / "model.safetensors")
    mark = {"a mark": torch.tensor([1, 0, 1])}
    monkeypatch.setattr(traced_module, "_noted", lambda *_: mark)
    for each in (part("nodes.components.fingerprint"), run_code):  # in which the code above is no other node's
        monkeypatch.setattr(each, "MODELS", (*each.MODELS, __name__))
    with session(monkeypatch, traces=True):
        drawn(small, path)
    with session(monkeypatch, traces=False):
        drawn(small, path)
        assert [list(each) for each in traced_module._marks.values()] == [["a mark"]]
        assert all(torch.equal(each["a mark"], mark["a mark"]) for each in traced_module._marks.values())


def test_options_that_a_module_reads_count_also_where_their_list_is_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    small = next(each for each in SMALL if each.kind == "Flux")
    path = small_file(small, tmp_path / "model.safetensors")
    with session(monkeypatch, traces=True):
        before = drawn(small, path)

    def with_option(patcher: Any) -> Any:
        """A model whose transformer_options have an option that Flux reads, and did not in the session before."""
        patcher.model_options["transformer_options"]["rope_options"] = {"scale_x": 2.0, "scale_y": 2.0, "shift_t": 1.0}
        return patcher

    assert "rope_options" in kept_programs.known_reads(comfy.ldm.flux.model.Flux, "_forward")
    kept_programs.keep_reads(comfy.ldm.flux.model.Flux, "_forward", [])
    with session(monkeypatch, traces=True) as used, small.detection(), torch.inference_mode():
        ours = with_option(loader.load_diffusion(weights.read_header(path), "CPU"))
        found = sampled(ours, small)
    monkeypatch.setenv(kept_programs.VARIABLE, "0")
    with session(monkeypatch, traces=True), small.detection(), torch.inference_mode():
        ours = with_option(loader.load_diffusion(weights.read_header(path), "CPU"))
        expected = sampled(ours, small)
    assert used
    assert not torch.equal(found, before)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
