"""One ComfyUI server with the micro models for all tests of workflows, and a runner for plans without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import comfy_server
from tests.comfy_server import Client
from tests.e2e.example import upload_example
from tests.pack import part
from tests.runner_toys import new_runner


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


@pytest.fixture(scope="module")
def dry_runner() -> Iterator[Any]:
    """A runner of this process's planner, for dry runs only."""
    toy = new_runner()
    runner = part("native.client.runner").Runner(toy._options, toy._environment)
    yield runner
    runner.close()
