"""Opens, converts, plans and runs official templates; `python3 dev.py templates` calls it in ComfyUI's environment."""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
from pathlib import Path

from . import packages, planning, report


def main() -> None:
    """Takes the templates that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="globs; without any, all templates")
    parser.add_argument("--folder", type=Path, required=True, help="where model files and inputs are kept")
    parser.add_argument("--package", type=Path, help="the folder of other templates than the installed ones")
    parser.add_argument("--plan", action="store_true", help="plan them, at real size")
    parser.add_argument("--run", action="store_true", help="run them, small")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    wanted = [
        each
        for each in packages.templates(options.package or packages.installed())
        if not options.names or any(fnmatch.fnmatch(each.name, glob) for glob in options.names)
    ]
    results = []
    for number, template in enumerate(wanted, 1):
        began = time.monotonic()
        result = planning.plan(template, options.folder, planning.CARDS if options.plan else ())
        results.append(result)
        print(f"{number}/{len(wanted)} {report.line(result)} ({time.monotonic() - began:.0f} s)", flush=True)
        if options.json:
            options.json.write_text(json.dumps([each.to_json() for each in results], indent=1), encoding="utf-8")
    print(*report.counts(results), sep="\n")
    if options.page:
        report.write(options.page, results)


if __name__ == "__main__":
    main()
