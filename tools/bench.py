"""`bench`: this project and stable-diffusion.cpp by turns on the same files, each time in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import comfyui, peer, process_watch, processes, steps, vulkan
from .bench_jobs import MIB, PEER, Job, Row
from .bench_report import Measured, plot, table
from .bench_rows import GIGABYTES
from .places import Places
from .steps import Failure, say

DISTURBED = 0.05  # of the machine's processors; OpenMP threads that wait for each other suffer from less

Show = Callable[[Sequence[Measured]], str]


@dataclass(frozen=True)
class Found:
    """A measuring process's report, and its memory as measured from outside."""

    report: Mapping[str, Any]
    taken: process_watch.Taken


@dataclass
class Bench:
    """One run: the device, where things lie, and what was measured so far."""

    places: Places
    device: str
    found: dict[Job, Found] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the model files are, for all checkouts."""
        return self.places.cache / "bench"

    @property
    def peer(self) -> peer.Peer:
        return peer.Peer(self.places, self.device.startswith("Vulkan"))


def run(bench: Bench, rows: Sequence[Row], json_file: Path | None, plot_file: Path | None, show: Show = table) -> int:
    """Measures the rows one after the other and says what came out; a row that fails does not end the others."""
    if any(row.peer == PEER for row in rows):
        steps.run_steps([peer.step(bench.peer)], bench.places.logs)
    measured: list[Measured] = []
    failed = []
    for number, row in enumerate(rows, 1):
        say(f"[{number}/{len(rows)}] {row.name}")
        try:
            measured.append(measure(bench, row))
        except Failure as failure:
            say(f"    {steps.story(failure, failure.advice)}")
            failed.append(row.name)
            continue
        if json_file:
            write_json(json_file, measured)
        if plot_file:
            plot_file.write_text(plot(measured), encoding="utf-8")
    say(f"\n{show(measured)}")
    if failed:
        say(f"Not measured: {', '.join(failed)}")
    return 1 if failed else 0


def write_json(file: Path, measured: Sequence[Measured]) -> None:
    """Writes the results so far, so that an interrupted run keeps them."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps([asdict(each) for each in measured], indent=1) + "\n", encoding="utf-8")
    partial.replace(file)


def measure(bench: Bench, row: Row) -> Measured:
    """Both sides of a row; what an earlier row has measured already counts for this one too."""
    ours = done(bench, row.ours)
    theirs = [done(bench, job) for job in row.peers]
    values = [figure(each, row.figure, bench.device) for each in theirs]
    value, best = figure(ours, row.figure, bench.device), min(values)
    conditions = [row.conditions, f"ours: {account(ours)}"]
    conditions += [
        f"peer{' (tiled)' if '--tiled' in job.options else ''}: {each:.2f} {row.unit}, {account(found)}"
        for job, found, each in zip(row.peers, theirs, values, strict=True)
    ]
    conditions.append(machine(bench.device))
    said = "; ".join(conditions)
    return Measured(row.name, round(value, 3), row.unit, row.peer, round(best, 3), round(value / best, 4), said)


def figure(found: Found, name: str, device: str) -> float:
    """The number of a row: seconds of the work or of its prompt, or MiB."""
    report = found.report
    if name in ("seconds", "encode"):
        return float(report[name])
    if name == "compute_buffer":
        return float(report["compute_buffer"]) / MIB
    if device == "CPU":
        return (found.taken.private - report["beside"]) / MIB
    return float(report["weights"] + report["compute_buffer"]) / MIB


def account(found: Found) -> str:
    """A line with a process's notes, threads and memory, and the load of other processes."""
    notes = f"{found.report['notes']}, " if found.report["notes"] else ""
    taken = found.taken
    return (
        f"{notes}{found.report['threads']} threads, at most {taken.private / MIB:.0f} MiB private and "
        f"{taken.resident / MIB:.0f} MiB resident, other processes {taken.others:.0%} of the processors"
    )


def machine(device: str) -> str:
    """The hardware and the peer's version."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    return f"{device}, {processor()}, {os.cpu_count()} processors, {memory:.0f} GiB, {peer.REQUIREMENT}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def done(bench: Bench, job: Job) -> Found:
    """The measurement of a job, made now unless it is there."""
    if job not in bench.found:
        files = {option: model_file(bench, name) for option, name in job.files}
        for file in files.values():
            read_once(file)
        bench.found[job] = start(bench, job, files)
    return bench.found[job]


def model_file(bench: Bench, name: str) -> Path:
    """A model file with random weights, made when it is not there."""
    file = bench.folder / name
    if file.exists():
        return file
    bench.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(bench.folder).free / 1e9
    if free < GIGABYTES[name] + 2:
        raise Failure(
            f"{file} needs {GIGABYTES[name]:.1f} GB, and {free:.1f} GB are free there",
            f"remove what you need no more from {bench.folder}, or set GGML_VULKAN_CACHE to a folder on a larger disk",
        )
    say(f"    writing {file}, {GIGABYTES[name]:.1f} GB")
    python(bench, bench.places.python, ["-m", "tests.bench.family_files", name, bench.folder], f"{name}.log")
    return file


def read_once(file: Path) -> None:
    """Brings a file into the page cache, as far as it fits."""
    with file.open("rb", buffering=0) as content:
        while content.read(1 << 24):
            pass


def start(bench: Bench, job: Job, files: Mapping[str, Path]) -> Found:
    """Runs a measuring process and watches its memory."""
    first = next(iter(files.values())).stem
    name = "-".join([job.module, job.task, first, *(option.strip("-") for option in job.options)])
    report = bench.places.logs / "bench" / f"{name}.json"
    report.unlink(missing_ok=True)
    options = [part for option, file in files.items() for part in (f"--{option}", file)]
    program = bench.peer.python if job.module == "peer" else bench.places.python
    say(f"    {job.module} {job.task} {' '.join(job.options)}")
    began = time.monotonic()
    command = ["-m", f"tests.bench.{job.module}", job.task, *options, "--device", bench.device, "--report", report]
    taken = python(bench, program, [*command, *job.options], f"{name}.log")
    found = Found(json.loads(report.read_text(encoding="utf-8")), taken)
    say(f"    {job.module} {job.task}: {found.report['seconds']:.2f} s, in all {steps.elapsed(began)}")
    if found.taken.others > DISTURBED:
        say(f"    other processes took {found.taken.others:.0%} of the processors: measure again on a quiet machine")
    return found


def python(bench: Bench, program: Path, arguments: Sequence[str | Path], log_name: str) -> process_watch.Taken:
    """Runs a module of tests/bench to its end; raises Failure with the end of its log."""
    log = bench.places.logs / "bench" / log_name
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = processes.start([program, *arguments], output, environment(bench), bench.places.root)
        with steps.stopped_on_the_way_out(process), process_watch.watched(process.pid) as taken:
            code = steps.wait(process, log)
    if code:
        raise Failure(f"`python {' '.join(map(str, arguments[:3]))} ...` ended with code {code}", log=log)
    return taken


def environment(bench: Bench) -> dict[str, str]:
    """Environment of the measuring processes: import paths, ComfyUI and the device."""
    found = {"PYTHONPATH": str(bench.places.root), "COMFYUI_PATH": str(comfyui.tree(bench.places))}
    if bench.device.startswith("Vulkan"):
        found |= vulkan.software_environment(bench.places)
        found["SD_VK_DEVICE"] = bench.device.removeprefix("Vulkan")  # the peer's choice of a device
    return found
