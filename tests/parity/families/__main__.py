"""Traces and lowers cases, and says which stop and why.

python -m tests.parity.families [part of a name]    those of that name, or all
--measure                                           compute them too, on the CPU and on Vulkan, and compare with torch;
                                                    transformers on the CPU with quantized weights besides
--cpu                                               not on Vulkan, which takes five times as long
--write                                             measure, and write results.json and docs/families.md anew
--changed                                           only those that lack a result or whose code is another by now
--shard N/M                                         each M-th case, from the N-th on; --write keeps the others' results
"""

from __future__ import annotations

import argparse
import time

import torch

from ..places import PLACES
from . import results
from .case import QUANTIZED, FamilyCase
from .cases import CASES
from .results import Result
from .run import errors, quantized_error, stop


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--changed", action="store_true")
    parser.add_argument("--shard", default="0/1")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first, step = (int(number) for number in options.shard.split("/"))
    places = PLACES[:1] if options.cpu else PLACES[:2]
    runners = {place.device: place.runner() for place in places} if options.measure or options.write else {}
    found: dict[str, Result] = {}
    known = results.known()
    cases = [case for case in CASES if options.part in case.name]
    if options.changed:
        cases = [case for case in cases if case.name not in known or _is_old(case, known[case.name], options.cpu)]
    for case in cases[first::step]:
        began = time.monotonic()
        found[case.name] = _result(case, runners)
        print(f"{time.monotonic() - began:5.1f} s  {case.name}: {_said(found[case.name])}", flush=True)
        if options.write:
            results.update({case.name: found[case.name]}, CASES)
    for runner in runners.values():
        runner.close()


def _is_old(case: FamilyCase, result: Result, cpu: bool) -> bool:
    quantized, vulkan = case.transformer and result.q8_0 is None, not cpu and result.vulkan is None
    return (result.stop is None and (quantized or vulkan)) or results.changed(result)


def _result(case: FamilyCase, runners: dict) -> Result:
    made_of = results.sources(case, case.build())
    try:
        if why := stop(case):
            return Result(made_of, stop=why)
        measured = {device.lower().rstrip("0"): max(errors(case, device, runner)) for device, runner in runners.items()}
        if case.transformer and "CPU" in runners:
            measured |= {kind.lower(): quantized_error(case, kind, "CPU", runners["CPU"])[0] for kind in QUANTIZED}
    except Exception as error:
        return Result(made_of, stop=f"BROKEN: {type(error).__name__}: {error}"[:200])
    return Result(made_of, **measured)


def _said(result: Result) -> str:
    if result.stop:
        return result.stop
    measured = {"CPU": result.cpu, "Vulkan": result.vulkan, "Q8_0": result.q8_0, "Q4_K": result.q4_k}
    return ", ".join(f"{where} {error:.1e}" for where, error in measured.items() if error is not None) or "lowered"


if __name__ == "__main__":
    main()
