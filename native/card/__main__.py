"""Checks a card from the command line; `python3 dev.py card` starts it.

    python -m native.card [--device Vulkan0] [--quick] [--json FILE] [--page FILE.md]

in this pack's folder, with a Python that has numpy and ggml-python.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import RunnerError
from .check import FULL_SECONDS, QUICK_SECONDS, CardOptions, Watch, check_card, checked_device
from .page import to_page
from .report import to_json


def main() -> int:
    """Check, write, and show the page; 1 where a fault was found."""
    parser = argparse.ArgumentParser(prog="python -m native.card", description="Checks a card's results and speed.")
    parser.add_argument("--device", help="as ggml calls it; the first GPU where none is named")
    parser.add_argument("--quick", action="store_true", help="in a minute: fewer rates, one setting of the driver")
    parser.add_argument("--seconds", type=float, help="for all of it")
    parser.add_argument("--json", type=Path, help="file for the report as JSON")
    parser.add_argument("--page", type=Path, help="file for the report as Markdown")
    given = parser.parse_args()
    try:
        device = given.device or checked_device()
    except RunnerError as error:
        print(error, file=sys.stderr)
        return 2
    seconds = given.seconds or (QUICK_SECONDS if given.quick else FULL_SECONDS)
    options = CardOptions(device, full=not given.quick, seconds=seconds, limit=30.0 if given.quick else 120.0)
    report = check_card(options, Watch(progress=_say))
    if given.json:
        given.json.write_text(to_json(report), encoding="utf-8")
    if given.page:
        given.page.write_text(to_page(report), encoding="utf-8")
    print(to_page(report), end="")
    return 1 if report.faults else 0


def _say(done: float, what: str) -> None:
    if what:
        print(f"{done:4.0%} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
