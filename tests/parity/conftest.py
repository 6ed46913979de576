"""One runner for each place that parity is measured at, and whose turn it is on Vulkan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from native.client import Runner
from tests.parity.places import PLACES, Place

# Of how many cases on Vulkan a run takes one; families have most of what test_models.py has, too.
BY_TURNS = {
    "test_operations.py": 6, "test_op_info.py": 3, "test_kernels.py": 3, "test_parts.py": 12, "test_outliers.py": 6,
    "test_models.py": 8,
}  # fmt: skip


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what tests noted: the samples of OpInfo that ran, and with --figures how far each family is from torch."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, ())]
    noted = [each for report in reports for each in report.user_properties]
    _count_samples(terminalreporter, [value for key, value in noted if key == "samples"])
    if config.getoption("--figures"):
        _write_figures(terminalreporter, [value for key, value in noted if key == "family"])


def _count_samples(terminalreporter: Any, counts: list[tuple[str, str, int, int]]) -> None:
    """Samples of tests/parity/test_op_info.py: how many ran, and how many the table leaves out; each with -v."""
    if terminalreporter.verbosity > 0:
        for name, place, run, left_out in sorted(counts):
            terminalreporter.write_line(f"{name} on {place}: {run} samples, {left_out} left out")
    for where in sorted({place for _, place, _, _ in counts}):
        run, left_out = (sum(each[i] for each in counts if each[1] == where) for i in (2, 3))
        terminalreporter.write_line(f"OpInfo samples on {where}: {run} run, {left_out} left out with a reason")


def _write_figures(terminalreporter: Any, figures: list[tuple[str, str, float]]) -> None:
    from tests.parity.families import results
    from tests.parity.families.cases import CASES

    found = {
        case.name: results.Result(results.sources(case, case.build()), **measured)
        for case in CASES
        if (measured := {column: error for name, column, error in figures if name == case.name})
    }
    results.update(found, CASES)
    terminalreporter.write_line(f"{len(found)} families' figures written to {results.FILE} and {results.PAGE}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of operations and models on Vulkan a run takes a part, of those with F16 others than with F32."""
    for item in items:
        place = item.callspec.params.get("place") if hasattr(item, "callspec") else None
        # By name, as pytest imports a test's module and this one under two names, and so two classes of places.
        if item.path.name in BY_TURNS and getattr(place, "name", "CPU").startswith("Vulkan"):
            item.add_marker(pytest.mark.turns(BY_TURNS[item.path.name]))


@pytest.fixture(scope="session", params=PLACES, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    return request.param


@pytest.fixture(scope="session")
def runner(place: Place) -> Iterator[Runner]:
    runner = place.runner()
    yield runner
    runner.close()
