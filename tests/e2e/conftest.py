"""One ComfyUI server with the micro models for all tests of workflows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import comfy_server
from tests.comfy_server import Client
from tests.e2e.example import upload_example


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server whose input folder holds the picture that the workflows load."""
    with comfy_server.running(tmp_path_factory.mktemp("comfyui")) as client:
        upload_example(client)
        yield client


@pytest.fixture(scope="session")
def planning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server for what plans: planning starts a runner that other tests would take for theirs."""
    with comfy_server.running(tmp_path_factory.mktemp("planning")) as client:
        upload_example(client)
        yield client
