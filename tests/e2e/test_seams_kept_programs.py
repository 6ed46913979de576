"""A server that starts again, on another port, takes the programs that the one before it has kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests import comfy_server
from tests.comfy_server import workflow


def test_the_next_session_takes_the_programs_of_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "programs"
    monkeypatch.setenv("GGML_PROGRAMS", str(folder))
    with comfy_server.running(tmp_path / "base") as client:
        first = client.draw(workflow("text_to_image"))
    kept = _programs(folder)
    assert len(kept) >= 4  # FLUX.1's, T5's, CLIP-L's and the VAE's
    for file in kept:
        os.utime(file, (1, 1))
    with comfy_server.running(tmp_path / "base") as client:
        assert np.array_equal(client.draw(workflow("text_to_image")), first)
    assert _programs(folder) == kept
    assert all(file.stat().st_mtime > 1 for file in kept)  # an entry that is read is the one used last


def _programs(folder: Path) -> list[Path]:
    """The entries that are more than names of options."""
    return sorted(file for file in folder.iterdir() if file.stat().st_size > 10_000)
