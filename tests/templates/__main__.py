"""Opens, converts, plans and runs official templates; `python3 dev.py templates` calls it in ComfyUI's environment."""

from __future__ import annotations

import argparse
import atexit
import fnmatch
import json
import logging
import os
import time
from pathlib import Path

from . import packages, planning, report, running


def main() -> None:
    """Takes the templates that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="globs; without any, all templates")
    parser.add_argument("--folder", type=Path, required=True, help="where model files and inputs are kept")
    parser.add_argument("--package", type=Path, help="the folder of other templates than the installed ones")
    parser.add_argument("--plan", action="store_true", help="plan them, at real size")
    parser.add_argument("--run", action="store_true", help="run them, small")
    parser.add_argument("--card", action="append", choices=planning.CARDS, help="plan for this one alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what is not named or done again stays as it says")
    parser.add_argument("--resume", action="store_true", help="leave out what that file has the plans and runs of")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # of core, which names each tensor that a file lacks
    wanted = [
        each
        for each in packages.templates(options.package or packages.installed())
        if not options.names or any(fnmatch.fnmatch(each.name, glob) for glob in options.names)
    ]
    results = known(options.json)
    cards = tuple(options.card or planning.CARDS) if options.plan else ()
    runs = running.Runs(options.folder / "small")
    atexit.register(runs.close)
    for number, template in enumerate(wanted, 1):
        before = results.get(template.name)
        if options.resume and before and _has(before, cards, options.run):
            continue
        began = time.monotonic()
        result = planning.plan(template, options.folder / "real", cards)
        if options.run and result.opened:
            runs.run(template, result)
        result.leave_out(options.folder, Path(os.environ["COMFYUI_PATH"]))
        if before:
            _keep(result, before, bool(cards), options.run)
        results[template.name] = result
        print(f"{number}/{len(wanted)} {report.line(result)} ({time.monotonic() - began:.0f} s)", flush=True)
        if options.json:
            write(options.json, results)
    found = [each for _, each in sorted(results.items())]
    print(*report.counts(found), sep="\n")
    if options.page:
        report.write(options.page, found)


def _has(before: planning.Result, cards: tuple[str, ...], run: bool) -> bool:
    """Whether a result has the plans and the run that are asked for."""
    return before.plans.keys() >= set(cards) and (not run or before.run is not None)


def _keep(result: planning.Result, before: planning.Result, planned: bool, run: bool) -> None:
    """Keep of an earlier result what this time was not asked for."""
    if not planned:
        result.keep_plans(before)
    if not run:
        result.run, result.equal = before.run, before.equal


def write(path: Path, results: dict[str, planning.Result]) -> None:
    """Writes the results to a file, which is whole at any time."""
    said = [each.to_json() for _, each in sorted(results.items())]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(said, indent=1), encoding="utf-8")
    partial.replace(path)


def known(path: Path | None) -> dict[str, planning.Result]:
    """The results in a file, by template; nothing where there is none."""
    if path is None or not path.is_file():
        return {}
    said = [planning.Result.of_json(each) for each in json.loads(path.read_text(encoding="utf-8"))]
    return {each.name: each for each in said}


if __name__ == "__main__":
    main()
