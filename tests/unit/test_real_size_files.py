"""Diffusion models at their real size, planned from the header of a file over a hole; tests/bench/from_file.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import from_file, real_models, real_size_files
from tests.templates.diffusion import DIFFUSION

CARD = "RTX 3060 12 GB, Windows"
MIB = 1 << 20
GROWTH = 300 * MIB  # of this process


@pytest.mark.parametrize(
    ("name", "kind", "weights", "compute"),
    [("SD1.5", "SD15", 1399, 71), ("Z-Image small", "ZImage", 6240, 114)],
)  # fmt: skip
def test_planned_from_the_header(tmp_path: Path, name: str, kind: str, weights: int, compute: int) -> None:
    """Sizes in MiB: the weights as the file has them, and one compute buffer."""
    model = from_file.MODELS[name]
    path = tmp_path / "model.gguf"
    real_size_files.write(path, from_file.file_of(model), hollow=True)
    assert path.stat().st_blocks * 512 < 16 * MIB
    found = from_file.planned(path, model, CARD)
    assert found.kind == kind
    assert found.planned["streamed"] == 0
    assert found.planned["weights"] == pytest.approx(weights * MIB, rel=0.01)
    assert found.planned["compute"] == pytest.approx(compute * MIB, rel=0.1)
    assert found.grown < GROWTH


@pytest.mark.parametrize("name", sorted(set(real_models.MODELS) & set(DIFFUSION)))
def test_files_of_templates_have_the_structure_of_the_real_model(name: str) -> None:
    real = real_models.MODELS[name].build().state_dict()
    assert DIFFUSION[name].shapes() == {key: tuple(tensor.shape) for key, tensor in real.items()}
