"""`dev.py card`: the card check, and a block of FLUX.1 in stable-diffusion.cpp where that is installed."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

from . import bench, bench_rows, peer, vulkan
from .places import Places
from .steps import Failure, say

ROW = "step_small_256"  # of the benchmarks: one double and one single block
_BESIDE = 300  # seconds of the check where the peer is measured as well


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of the command."""
    command.add_argument("--device", metavar="NAME", default="", help="as ggml calls it; else the first GPU")
    command.add_argument("--quick", action="store_true", help="in a minute: fewer speeds, one setting of the driver")
    command.add_argument("--json", metavar="FILE", type=Path, help="write the report for programs")
    command.add_argument("--page", metavar="FILE.md", type=Path, help="write the report as a page in Markdown")


def run(places: Places, options: argparse.Namespace) -> int:
    """Check the card and write the reports; 1 where a fault was found, 2 where there is no card."""
    found = places.logs / "card.json"
    found.parent.mkdir(parents=True, exist_ok=True)
    found.unlink(missing_ok=True)
    page = (options.page or places.logs / "card.md").absolute()
    there = peer.Peer(places, vulkan=True)
    beside = not options.quick and peer.stamp(there).matches(there.key())
    command = [str(places.python), "-m", "native.card", "--json", str(found), "--page", str(page)]
    command += ["--device", options.device] if options.device else []
    command += ["--quick"] if options.quick else []
    command += ["--seconds", str(_BESIDE)] if beside else []
    environment = {**os.environ, **vulkan.software_environment(places)}
    code = subprocess.run(command, cwd=places.root, env=environment, check=False).returncode
    if not found.exists():
        return code or 1
    report = json.loads(found.read_text(encoding="utf-8"))
    if beside and code == 0:
        said = _peer(places, report)
        say(said)
        with page.open("a", encoding="utf-8") as file:
            file.write(f"\n{said}\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    say(f"The page is {page}")
    return code


def _peer(places: Places, report: dict[str, object]) -> str:
    """Both programs' seconds for the same step, in a sentence; they also go into the report."""
    device = report["device"]
    assert isinstance(device, dict)
    try:
        row = next(row for row in bench_rows.rows(device["name"]) if row.name == ROW)
        measured = bench.measure(bench.Bench(places, device["name"]), row)
    except Failure as failure:
        return f"stable-diffusion.cpp was not measured: {failure}"
    report["peer"] = {
        "name": row.peer,
        "seconds": measured.peer_value,
        "ours": measured.value,
        "conditions": row.conditions,
    }
    return f"{row.conditions}: {measured.value:.3f} s, {row.peer} {measured.peer_value:.3f} s"
