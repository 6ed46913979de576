"""Runs the storm and says how it ended: `python -m tests.storm --minutes 60`."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

from tests.comfy_server import MICRO_MODELS, Client
from tests.e2e.example import upload_example
from tests.language_servers import server_that

from .faults import RUNNER_TIMEOUT, hostile
from .jobs import drawn
from .rounds import OUTCOMES, Storm, play, watched_server


def storm(minutes: float, seed: int, found: Storm, vulkan: bool = True) -> None:
    """Rounds for so many minutes, after the pictures are known; a server that died is followed by another."""
    chance = random.Random(seed)
    with server_that(hostile(random.Random(seed))) as url, tempfile.TemporaryDirectory(prefix="storm") as folder:
        with _server(Path(folder), found) as (client, _):
            tasks = drawn(client, url, vulkan)  # with time to compile shaders
        end = time.monotonic() + 60 * minutes
        with patch.dict(os.environ, {"GGML_RUNNER_TIMEOUT": f"{RUNNER_TIMEOUT:g}"}):
            while time.monotonic() < end:
                with _server(Path(folder), found) as (client, models):
                    play(client, tasks, models, chance, end, found)


@contextmanager
def _server(folder: Path, found: Storm) -> Iterator[tuple[Client, Path]]:
    """A server with folders of its own under `folder`, and its models."""
    base = Path(tempfile.mkdtemp(dir=folder))
    models = Path(shutil.copytree(MICRO_MODELS, base / "models"))
    with watched_server(base, models, found) as client:
        upload_example(client)
        yield client, models


def main(arguments: list[str]) -> int:
    """The number of things that must not happen, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, after a minute of preparation")
    parser.add_argument("--seed", type=int, default=0, help="of chance")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every job with its faults and outcome")
    options = parser.parse_args(arguments)
    found = Storm()
    try:
        storm(options.minutes, options.seed, found)
    finally:
        print(report(found))
        if options.json:
            options.json.write_text(json.dumps([asdict(event) for event in found.events], indent=1), encoding="utf-8")
    return int(bool(found.bad()))


def report(found: Storm) -> str:
    """Counts by outcome, the same by fault, and all that must not happen."""
    lines = [f"{len(found.events)} jobs: " + ", ".join(f"{count} {name}" for name, count in found.counts().items())]
    for name, counts in found.by_fault().items():
        lines.append(f"  {name:22} " + ", ".join(f"{counts[each]} {each}" for each in OUTCOMES if counts[each]))
    lines += [
        f"\n{event.outcome.upper()} in {event.job} ({', '.join(event.faults)}): {event.detail}" for event in found.bad()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
