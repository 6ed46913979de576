"""`dev.py test`: every check runs whatever the others say, and two workers get the files that belong together."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import TOGETHER
from tests.pack import ROOT
from tools import checks
from tools.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(root=tmp_path, state=tmp_path / ".dev", cache=tmp_path / "cache")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_checks_side_by_side_are_shown_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = "import time; print('a', flush=True); time.sleep(0.5); print('b')"
    commands = {"slow": (python(slow), tmp_path), "fails": (python("print('c'); raise SystemExit(3)"), tmp_path)}
    assert checks.check_side_by_side(commands, {}) == {"slow": 0, "fails": 3}
    assert capsys.readouterr().out == "--- slow\na\nb\n--- fails\nc\n"


@pytest.mark.parametrize(
    ("software", "arguments", "workers"),
    [
        ({"GALLIVM_PERF": "nopt"}, ["tests/unit", "-x"], "2"),
        ({"GALLIVM_PERF": "nopt"}, ["tests/unit/test_a.py", "tests/unit/test_b.py::test_c"], "2"),
        ({"GALLIVM_PERF": "nopt"}, ["tests/unit/test_a.py::test_b", "tests/unit/test_a.py::test_c"], "0"),
        ({}, [], "0"),  # with a GPU
    ],
)
def test_pytest_is_last_and_has_workers_where_they_help(
    places: Places, monkeypatch: pytest.MonkeyPatch, software: dict[str, str], arguments: list[str], workers: str
) -> None:
    run: list[list[str]] = []

    def check(name: str, command: list[str], folder: Path, environment: dict[str, str]) -> int:
        run.append([str(part) for part in command])
        return 1

    monkeypatch.setattr(checks.vulkan, "software_environment", lambda places: software)
    monkeypatch.setattr(checks, "check_side_by_side", lambda checks, environment: {"ruff": 5, "mypy": 0})
    monkeypatch.setattr(checks, "check", check)
    assert checks.run_checks(places, arguments) == 5
    (command,) = run
    assert command[command.index("--numprocesses") + 1] == workers
    assert command[len(command) - len(arguments) :] == arguments


def test_what_is_kept_together_is_there() -> None:
    for pattern in (pattern for row in TOGETHER for pattern in row):
        assert list(ROOT.glob(pattern if pattern.endswith(".py") else f"{pattern}.py")), pattern
