"""The planner at the command line (plan.py): the memory plan of a workflow file, without a server."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...native.client import RunnerError
from ...native.planning import Profile, ProfileError, plan_json, profile_of, report
from ...native.weights import WeightFileError
from ..conversion.convert import convert
from ..conversion.report import Report
from .planner import make_plan
from .request import MODES, REJECT, THIS_MACHINE, profile_named, profile_names, request_of
from .workflow_file import WorkflowError, prompt_of

FITS, DOES_NOT_FIT, UNUSABLE = 0, 1, 2  # exit codes


def run(arguments: list[str]) -> int:
    """Prints the plan of a workflow file; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        prompt = prompt_of(json.loads(options.workflow.read_text(encoding="utf-8")))
        report_of_loaders = Report()
        if options.convert:
            prompt, report_of_loaders = convert(prompt)
        request = request_of({**vars(options), "hardware": THIS_MACHINE})
        result = make_plan(prompt, replace(request, profile=_profile(options.hardware)))
    except (OSError, ValueError, WorkflowError, ProfileError, WeightFileError, RunnerError) as error:
        print(f"{options.workflow}: {error}", file=sys.stderr)
        return UNUSABLE
    if options.json:
        told = {**plan_json(result.plan, result.advice), "chosen": result.change}
        print(json.dumps({**told, "conversion": report_of_loaders.to_json()} if options.convert else told, indent=2))
    else:
        for line in report_of_loaders.lines():
            print(line)
        print(report(result.plan, result.advice, result.choice))
    return FITS if result.plan.fits else DOES_NOT_FIT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="plan.py", description="What a workflow takes of GPU and RAM; runs nothing.")
    parser.add_argument("workflow", type=Path, help="a file of ComfyUI's editor, or one in API format")
    parser.add_argument("--mode", choices=MODES, default=REJECT)
    known = ", ".join(profile_names())
    parser.add_argument("--hardware", default=THIS_MACHINE, help=f"{known}; or a JSON file that describes a machine")
    parser.add_argument("--gpu-budget", type=int, default=0, metavar="MIB", help="of each GPU; 0: free, less 512")
    parser.add_argument("--ram-budget", type=int, default=0, metavar="MIB", help="0: free, less a fifth of all")
    parser.add_argument("--convert", action="store_true", help="plan with loaders of this pack instead of others")
    parser.add_argument("--unknown-width", type=int, default=0, metavar="PIXELS", help="where it cannot be known")
    parser.add_argument("--unknown-height", type=int, default=0, metavar="PIXELS")
    parser.add_argument("--unknown-batch", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="as POST /ggml/plan answers")
    return parser


def _profile(hardware: str) -> Profile | None:
    if hardware.endswith(".json"):
        described: Any = json.loads(Path(hardware).read_text(encoding="utf-8"))
        return profile_of(described)
    return profile_named(hardware)
