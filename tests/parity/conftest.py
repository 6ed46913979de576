"""One runner for each place that parity is measured at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from native.client import Runner
from tests.parity.places import PLACES, Place


@pytest.fixture(scope="session", params=PLACES, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    return request.param


@pytest.fixture(scope="session")
def runner(place: Place) -> Iterator[Runner]:
    runner = place.runner()
    yield runner
    runner.close()
