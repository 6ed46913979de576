"""Measures a process and its children from outside: peak memory, and how busy other processes kept the machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL = 0.05  # seconds
PROC = Path("/proc")


@dataclass
class Taken:
    """Bytes are of all processes together at one moment. Everything is zero on systems without /proc."""

    private: int = 0  # the most anonymous and shared memory, behind which there is no file
    resident: int = 0  # the most memory, pages of mapped files included
    others: float = 0.0  # the share of the machine's processors that other processes had
    ticks: dict[int, int] = field(default_factory=dict)  # of processor time, by process id


@contextmanager
def watched(pid: int) -> Iterator[Taken]:
    """Looks at a process every 50 ms while the block runs; `others` is known after it."""
    taken, ended = Taken(), threading.Event()

    def watch() -> None:
        while not ended.wait(INTERVAL):
            look(pid, taken)

    thread = threading.Thread(target=watch, daemon=True)
    busy, total = machine_ticks()
    thread.start()
    try:
        yield taken
    finally:
        ended.set()
        thread.join()
        busy, total = (now - then for now, then in zip(machine_ticks(), (busy, total), strict=True))
        taken.others = max(0.0, busy - sum(taken.ticks.values())) / max(1, total)


def look(pid: int, taken: Taken) -> None:
    """Adds up what the processes hold now."""
    private = resident = 0
    for process in family(pid):
        try:
            fields = status((PROC / str(process) / "status").read_text(encoding="utf-8"))
            taken.ticks[process] = processor_ticks((PROC / str(process) / "stat").read_text(encoding="utf-8"))
        except OSError:
            continue  # it has just ended
        private += fields.get("RssAnon", 0) + fields.get("RssShmem", 0)
        resident += fields.get("VmRSS", 0)
    taken.private, taken.resident = max(taken.private, private), max(taken.resident, resident)


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for thread in (PROC / str(pid) / "task").glob("*/children"):
        try:
            children = thread.read_text(encoding="utf-8").split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def status(text: str) -> Mapping[str, int]:
    """The sizes in a /proc/PID/status, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}


def processor_ticks(text: str) -> int:
    """User and system time in a /proc/PID/stat, whose second field may hold spaces."""
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def machine_ticks() -> tuple[int, int]:
    """Busy time and all time of all processors since the machine started, what a hypervisor took counted as busy."""
    try:
        words = (PROC / "stat").read_text(encoding="utf-8").split("\n", 1)[0].split()
    except OSError:
        return 0, 0
    times = [int(word) for word in words[1:9]]  # user nice system idle iowait irq softirq steal
    return sum(times) - times[3] - times[4], sum(times)
