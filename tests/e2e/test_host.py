"""Compatibility with this ComfyUI: it imports the pack, has its nodes, and draws the newest ComfyUI's picture."""

from __future__ import annotations

import numpy as np

from tests.comfy_server import ROOT, Client, picture, workflow
from tools.server import PACK_NAME

NODES = {file.stem for file in (ROOT / "js" / "docs").glob("*.md")}
TOLERANCE = 1.0  # levels of 0 to 255 on average: other processors round differently


def test_the_pack_is_imported_without_a_word(comfyui: Client) -> None:
    log = comfyui.server.log.read_text(encoding="utf-8")
    assert "IMPORT FAILED" not in log
    assert "Cannot import" not in log
    assert f"custom_nodes/{PACK_NAME}" in log.partition("Import times for custom nodes:")[2]


def test_its_nodes_are_there(comfyui: Client) -> None:
    modules = {name: node["python_module"] for name, node in comfyui.get("/object_info").items()}
    assert {name for name, module in modules.items() if module == f"custom_nodes.{PACK_NAME}"} == NODES


def test_the_picture_is_the_newest_ones(comfyui: Client) -> None:
    """docs/demo.png is what `dev.py demo` draws in the newest ComfyUI and torch of the matrix."""
    reference = picture((ROOT / "docs" / "demo.png").read_bytes())
    drawn = comfyui.draw(workflow("text_to_image"))
    assert np.abs(drawn.astype(float) - reference).mean() < TOLERANCE
