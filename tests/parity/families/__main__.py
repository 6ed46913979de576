"""Writes stops.json anew: traces and lowers every case, and notes what stops and why.

python -m tests.parity.families [part of a name] prints instead, for the cases of that name.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from .cases import CASES, STOPS_FILE
from .run import stop


def main() -> None:
    """See above."""
    torch.set_num_threads(1)
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    stops = {}
    for case in CASES:
        if part in case.name:
            began = time.monotonic()
            try:
                found = stop(case)
            except Exception as error:
                found = f"BROKEN: {type(error).__name__}: {error}"
            print(f"{time.monotonic() - began:5.1f} s  {case.name}: {found or 'lowered'}", flush=True)
            if found:
                stops[case.name] = found
    if not part:
        STOPS_FILE.write_text(json.dumps(stops, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
