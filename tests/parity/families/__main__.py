"""Traces and lowers cases, and says which stop and why.

python -m tests.parity.families [part of a name]    those of that name, or all
--measure                                           compute them too, on the CPU and on Vulkan, and compare with torch
--write                                             measure, and write results.json and docs/families.md anew
--shard N/M                                         each M-th case, from the N-th on; --write keeps the others' results
"""

from __future__ import annotations

import argparse
import time

import torch

from ..places import PLACES
from . import results
from .case import FamilyCase
from .cases import CASES
from .results import Result
from .run import errors, stop


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--shard", default="0/1")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first, step = (int(number) for number in options.shard.split("/"))
    runners = {place.device: place.runner() for place in PLACES[:2]} if options.measure or options.write else {}
    found = {}
    for case in [case for case in CASES if options.part in case.name][first::step]:
        began = time.monotonic()
        found[case.name] = _result(case, runners)
        print(f"{time.monotonic() - began:5.1f} s  {case.name}: {_said(found[case.name])}", flush=True)
    for runner in runners.values():
        runner.close()
    if options.write:
        names = {case.name for case in CASES}
        joined = {name: each for name, each in {**results.known(), **found}.items() if name in names}
        results.write(joined)
        if joined.keys() == names:
            results.PAGE.write_text(results.page(CASES, joined), encoding="utf-8")


def _result(case: FamilyCase, runners: dict) -> Result:
    made_of = results.sources(case, case.build())
    try:
        if why := stop(case):
            return Result(made_of, stop=why)
        measured = {device.lower().rstrip("0"): max(errors(case, device, runner)) for device, runner in runners.items()}
    except Exception as error:
        return Result(made_of, stop=f"BROKEN: {type(error).__name__}: {error}"[:200])
    return Result(made_of, **measured)


def _said(result: Result) -> str:
    if result.stop:
        return result.stop
    return "lowered" if result.cpu is None else f"CPU {result.cpu:.1e}, Vulkan {result.vulkan:.1e}"


if __name__ == "__main__":
    main()
