"""The planner takes a picture to be as large as ComfyUI's LoadImage makes it, without reading its pixels."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.pack import part

rules, unknown = part("nodes.planner.rules"), part("nodes.planner.unknown")

import folder_paths  # noqa: E402

import nodes  # noqa: E402

ORIENTATION = 0x0112


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return _saved("JPEG", exif=exif)


def _saved(kind: str, frames: int = 1, **options: object) -> bytes:
    first, *others = [Image.new("RGB", (40, 24), (50 * n, 9, 9)) for n in range(frames)]
    file = io.BytesIO()
    first.save(file, kind, **({"save_all": True, "append_images": others} if others else {}), **options)
    return file.getvalue()


PICTURES = {
    "plain.png": _saved("PNG"),
    **{f"turned {n}.jpg": _turned(n) for n in range(1, 9)},
    "animated.gif": _saved("GIF", 3),
    "animated.webp": _saved("WEBP", 4),
    "animated.png": _saved("PNG", 3),
    "plain.webp": _saved("WEBP"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_as_large_as_loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(PICTURES[name])
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    planned, mask = rules._load_image({"image": name}, None)
    loaded, _ = nodes.LoadImage().load_image(name)
    assert planned.shape == loaded.shape
    assert mask.shape == loaded.shape[:-1]
