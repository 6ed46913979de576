"""`dev.py card`: what it starts, what it writes, and the peer beside it where that is installed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dev
from tools import bench, bench_report, card, peer, places


@pytest.fixture
def here(tmp_path: Path) -> places.Places:
    return places.Places(root=tmp_path, state=tmp_path / ".dev", cache=tmp_path / "cache")


@pytest.mark.parametrize(("quick", "installed"), [(False, False), (False, True), (True, True)])
def test_reports_are_written(
    quick: bool, installed: bool, here: places.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        Path(command[command.index("--json") + 1]).write_text('{"device": {"name": "Vulkan0"}}')
        Path(command[command.index("--page") + 1]).write_text("## Card check\n")
        return SimpleNamespace(returncode=0)

    def measure(_: Any, row: Any) -> Any:
        return bench_report.Measured(row.name, 1.5, "s", row.peer, 2.0, 0.75, row.conditions)

    monkeypatch.setattr(card.subprocess, "run", run)
    monkeypatch.setattr(peer, "stamp", lambda _: SimpleNamespace(matches=lambda _: installed))
    monkeypatch.setattr(bench, "measure", measure)
    given = ["card", "--json", str(tmp_path / "c.json"), "--page", str(tmp_path / "c.md"), *["--quick"] * quick]
    assert card.run(here, dev.command_line().parse_args(given)) == 0
    (command,) = commands
    assert ("--quick" in command) == quick
    beside = installed and not quick
    assert ("--seconds" in command) == beside  # less than the check's own, for the peer's
    found = json.loads((tmp_path / "c.json").read_text())
    page = (tmp_path / "c.md").read_text()
    assert ("peer" in found) == ("1.500 s, stable-diffusion.cpp 2.000 s" in page) == beside
    if beside:
        assert (found["peer"]["seconds"], found["peer"]["ours"]) == (2.0, 1.5)


def test_no_card(here: places.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    assert card.run(here, dev.command_line().parse_args(["card"])) == 2
