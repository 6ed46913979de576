"""How much longer ComfyUI takes to start with this pack, and which of its modules take most of it.

    COMFYUI_PATH=... python -m tests.bench.start_up

Each run is a process of its own in which ComfyUI's own imports are done; the files come from the page cache and are
compiled. Prints seconds, and milliseconds of the most expensive modules as Python's -X importtime has them.
"""

from __future__ import annotations

import re
import statistics

import psutil

from tests.start_up import NAME, in_a_new_process

RUNS = 7
SHOWN = 8  # modules
IMPORT = re.compile(rf"^import time: +(\d+) \| +\d+ \| +{NAME}\.(\S+)$", re.MULTILINE)


def main() -> None:
    """Measures and prints."""
    print(f"{psutil.cpu_count()} processors, other processes {psutil.cpu_percent(1.0):.0f} %")
    in_a_new_process()  # compiles and reads what is not there yet
    runs = [in_a_new_process()[0] for _ in range(RUNS)]
    seconds = [run.seconds for run in runs]
    used = statistics.median(run.processor_seconds for run in runs)
    print(f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), processor time {used:.2f} s")
    _, log = in_a_new_process("-X", "importtime")
    modules = sorted(((int(time), name) for time, name in IMPORT.findall(log)), reverse=True)
    print(f"{len(modules)} modules, {sum(time for time, _ in modules) / 1000:.0f} ms in all; the most expensive:")
    for time, name in modules[:SHOWN]:
        print(f"{time / 1000:6.1f} ms  {name}")


if __name__ == "__main__":
    main()
