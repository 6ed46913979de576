"""One ComfyUI server with the micro models for all tests of workflows."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests import comfy_server
from tests.comfy_server import Client
from tests.micro.drawing import draw
from tests.micro.scenes import Scene, Shape


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server whose input folder holds the picture that the workflows load."""
    with comfy_server.running(tmp_path_factory.mktemp("comfyui")) as client:
        scene = Scene("white", (Shape("red", "circle"),))
        client.upload("example.png", draw(scene, 128, random.Random(1)))
        yield client
