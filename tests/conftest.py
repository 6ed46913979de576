"""Options of the tests, whose turn it is in a run, and which files of tests two workers keep together."""

from __future__ import annotations

import os
from collections import defaultdict
from datetime import datetime, timezone
from fnmatch import fnmatch
from typing import Any

import pytest

FIFTHS = 5  # of the combinations of tests/e2e/test_seams_matrix.py
SIXTHS = 6  # of the model families of tests/parity/families, and of the kinds of files of tests/e2e
SAMPLES = FIFTHS * SIXTHS  # pairs of the two

# Files that share a server are run by one worker, so that it is started once; real sizes, so that memory suffices.
TOGETHER = (
    ("tests/e2e/test_workflows_*", "tests/e2e/test_front_end_files.py", "tests/e2e/test_host.py"),
    ("tests/e2e/test_planner*", "tests/e2e/test_docs_api.py"),
    ("tests/faults/test_models_*", "tests/faults/test_server_faults.py"),
    ("tests/e2e/test_seams_two_gib.py", "tests/unit/test_real_size_memory.py"),
)
# Files whose tests share nothing are divided among the workers.
DIVIDED = (
    "tests/parity/families/test_families.py", "tests/parity/test_video_vae.py",
    "tests/e2e/test_seams_random_workflows.py",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    today = datetime.now(timezone.utc).timetuple().tm_yday
    group = parser.getgroup("combinations of placements and sizes, and model families")
    group.addoption("--all", action="store_true", help="run all of them, not a fifth and a sixth")
    group.addoption("--figures", action="store_true", help="write the families' errors to results.json and docs")
    group.addoption(
        "--sample", type=int, choices=range(SAMPLES), default=today % SAMPLES, metavar="N",
        help=f"run sample N, 0 to {SAMPLES - 1}; without it, the one whose turn it is today",
    )  # fmt: skip


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("--all"):
        return "combinations and families: all"
    number = config.getoption("--sample")
    return f"combinations and families: sample {number} of {SAMPLES}, which --sample {number} repeats on any day"


def pytest_configure(config: pytest.Config) -> None:
    os.environ["GGML_IDLE_MEASUREMENT"] = "0"  # devices are not measured beside tests, in no process
    os.environ["GGML_PROBE"] = "0"  # nor probed
    os.environ["GGML_PROGRAMS"] = "0"  # each session traces, but in tests of the store
    config.addinivalue_line("markers", "turns(n): a run takes every n-th of a test's cases, others each day")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes the cases whose turn it is; with --all, or where a file is named, every case."""
    if config.getoption("--all") or any(".py" in argument for argument in config.args):
        return
    cases: defaultdict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("turns"):
            parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
            cases[item.nodeid.partition("[")[0], str(parameters.get("place"))].append(item)
    rest: set[pytest.Item] = set()
    for number, group in enumerate(cases.values(), config.getoption("--sample")):
        turns = group[0].get_closest_marker("turns").args[0]
        rest.update(item for index, item in enumerate(group, number) if index % turns)
    config.hook.pytest_deselected(items=list(rest))
    items[:] = [item for item in items if item not in rest]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files to each worker, those of a row of TOGETHER to the same one, but for those that are DIVIDED."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            if file in DIVIDED:
                return nodeid
            return next((row[0] for row in TOGETHER if any(fnmatch(file, pattern) for pattern in row)), file)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None
