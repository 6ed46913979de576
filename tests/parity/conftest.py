"""One runner for each place that parity is measured at, and whose turn it is on Vulkan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from native.client import Runner
from tests.parity.places import PLACES, Place

ON_VULKAN = PLACES[1:]
BY_TURNS = ("test_operations.py", "test_op_info.py", "test_kernels.py", "test_models.py")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Samples of tests/parity/test_op_info.py: how many ran, and how many the table leaves out; each with -v."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, ())]
    counts = [value for report in reports for key, value in report.user_properties if key == "samples"]
    if terminalreporter.verbosity > 0:
        for name, place, run, left_out in sorted(counts):
            terminalreporter.write_line(f"{name} on {place}: {run} samples, {left_out} left out")
    for where in sorted({place for _, place, _, _ in counts}):
        run, left_out = (sum(each[i] for each in counts if each[1] == where) for i in (2, 3))
        terminalreporter.write_line(f"OpInfo samples on {where}: {run} run, {left_out} left out with a reason")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of operations and models on Vulkan a run takes every second case, of those with F16 others than with F32."""
    for item in items:
        place = isinstance(item, pytest.Function) and hasattr(item, "callspec") and item.callspec.params.get("place")
        if item.path.name in BY_TURNS and place in ON_VULKAN:
            item.add_marker(pytest.mark.turns(2))


@pytest.fixture(scope="session", params=PLACES, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    return request.param


@pytest.fixture(scope="session")
def runner(place: Place) -> Iterator[Runner]:
    runner = place.runner()
    yield runner
    runner.close()
