"""Options and report of a measuring process; `tools/bench.py` starts one for each measurement.

    python -m tests.bench.ours steps --diffusion FILE --vae FILE --size 512 --report FILE.json

Imports nothing outside Python: the peer's environment holds little else.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

PROMPT = "a red circle left of a blue square on a white background"


@dataclass(frozen=True)
class Report:
    """One measurement; all sizes in bytes."""

    seconds: float
    threads: int
    notes: str = ""
    compute_buffer: int = 0
    weights: int = 0  # of the diffusion model, where it computes
    beside: int = 0  # private memory for what this program needs and the other does not load
    encode: float = 0.0  # seconds of the prompt, where steps are the other figure


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that all measuring processes take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--report", type=Path, required=True, help="JSON file that the Report goes to")
    for file in ("checkpoint", "diffusion", "vae", "t5", "clip", "llm"):
        parser.add_argument(f"--{file}", type=Path)
    parser.add_argument("--device", default="CPU", help="as ggml calls it")
    parser.add_argument("--weights", default="auto", help="where a loader's node keeps them")
    parser.add_argument("--engine", default="auto", help="what computes on the CPU, as a loader's node names it")
    parser.add_argument("--clip-type", default="auto", help="of text encoders, as their node names it")
    parser.add_argument("--size", type=int, default=512, help="pixels, on both sides")
    parser.add_argument("--height", type=int, help="pixels, where it is not the width")
    parser.add_argument("--frames", type=int, default=0, help="of a video")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--tiled", action="store_true")
    return parser


def perform(tasks: Mapping[str, Callable[[argparse.Namespace], Report]], description: str | None) -> None:
    """Does the task that the command line names and writes its Report."""
    parser = arguments(description)
    parser.add_argument("task", choices=tasks)
    options = parser.parse_args()
    write(options.report, tasks[options.task](options))


def write(path: Path, report: Report) -> None:
    """Puts the Report there at once."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(report)), encoding="utf-8")
    os.replace(partial, path)
