"""One runner for each place that parity is measured at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from native.client import Runner
from tests.parity.places import PLACES, Place


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


@pytest.fixture(scope="session", params=PLACES, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    return request.param


@pytest.fixture(scope="session")
def runner(place: Place) -> Iterator[Runner]:
    runner = place.runner()
    yield runner
    runner.close()
