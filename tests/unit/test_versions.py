"""A ComfyUI or torch that is too old goes on without this pack, and says so."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.pack import ROOT, comfy

comfy()

import comfyui_version  # noqa: E402
import torch  # noqa: E402

import nodes  # noqa: E402


@pytest.mark.parametrize(
    ("module", "version", "said"),
    [
        (comfyui_version, "0.17.2", "works with ComfyUI 0.18.0 and newer, and this is 0.17.2: update ComfyUI"),
        (torch, "2.6.0+cu124", "works with torch 2.7.0 and newer, and this is 2.6.0+cu124: update torch"),
    ],
)
def test_what_is_too_old_is_told_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, module: object, version: str, said: str
) -> None:
    monkeypatch.setattr(module, "__version__", version)
    with caplog.at_level(logging.WARNING):
        assert not asyncio.run(nodes.load_custom_node(str(ROOT), ignore=set(nodes.NODE_CLASS_MAPPINGS)))
    assert said in caplog.text


@pytest.mark.parametrize(("module", "version"), [(comfyui_version, "0.100.0"), (torch, "2.10.1+rocm6.4")])
def test_newer_ones_are_taken(monkeypatch: pytest.MonkeyPatch, module: object, version: str) -> None:
    monkeypatch.setattr(module, "__version__", version)
    assert asyncio.run(nodes.load_custom_node(str(ROOT)))
