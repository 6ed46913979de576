"""One runner for each place that parity is measured at."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from native.client import Runner
from tests.parity.places import PLACES, Place


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which cases of tests/parity/families run; FAMILIES in the environment says so too."""
    parser.addoption("--families", choices=("all", "third", "none"), default=os.environ.get("FAMILIES", "third"))


@pytest.fixture(scope="session", params=PLACES, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    return request.param


@pytest.fixture(scope="session")
def runner(place: Place) -> Iterator[Runner]:
    runner = place.runner()
    yield runner
    runner.close()
