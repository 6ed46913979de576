"""Set-up as a row of steps: each is done once, shows that it is alive, and says what went wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import processes
from .processes import Command

TICK = 15.0  # seconds between signs of life of a long command


class Failure(Exception):
    """Why a step could not be done, for the person who runs it; `advice` replaces the step's own."""

    def __init__(self, why: str, advice: str | None = None, log: Path | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.advice = advice
        self.log = log


@dataclass(frozen=True)
class Step:
    """One part of set-up: `action` writes to the log it is given and leaves `done` true."""

    name: str
    done: Callable[[], bool]
    action: Callable[[Path], None]
    advice: str


@dataclass(frozen=True)
class Stamp:
    """A file inside what a step made that says from which recipe; it goes when the thing goes."""

    path: Path

    def matches(self, recipe: str) -> bool:
        try:
            return self.path.read_text(encoding="utf-8") == recipe
        except OSError:
            return False

    def write(self, recipe: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(recipe, encoding="utf-8")
        partial.replace(self.path)


def recipe_key(recipe: Mapping[str, object]) -> str:
    """A short name for everything that a result depends on: equal recipes, equal names."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def run_steps(steps: Sequence[Step], logs: Path) -> None:
    """Does, in order, the steps that are not done yet; raises SystemExit with the story of the first that fails."""
    for number, step in enumerate(steps, 1):
        log = logs / f"{step.name.lower().replace(' ', '-')}.log"
        try:
            if step.done():
                continue
            say(f"[{number}/{len(steps)}] {step.name} ...")
            logs.mkdir(parents=True, exist_ok=True)
            log.write_bytes(b"")
            started = time.monotonic()
            step.action(log)
            say(f"[{number}/{len(steps)}] {step.name}: done in {elapsed(started)}")
        except Failure as failure:
            raise SystemExit(failure_message(step, failure, f"{number} of {len(steps)}")) from failure
        except OSError as error:
            raise SystemExit(failure_message(step, os_failure(error, logs), f"{number} of {len(steps)}")) from error
        except KeyboardInterrupt:
            raise SystemExit(f"\nInterrupted in step {number}, {step.name}. Run it again to go on from here.") from None


def os_failure(error: OSError, place: Path) -> Failure:
    """An error of the file system, with how much room is left where the files go."""
    folder = next((parent for parent in (place, *place.parents) if parent.exists()), Path.cwd())
    free = shutil.disk_usage(folder).free / 2**30
    return Failure(f"{error} ({free:.1f} GiB are free on the disk of {folder})")


def failure_message(step: Step, failure: Failure, place: str) -> str:
    """Which step failed, why, where its log is, and what to do."""
    advice = f"{failure.advice or step.advice}. Then run it again: what is done is kept."
    return f"\nSet-up stopped in step {place}: {step.name}\n{story(failure, advice)}"


def story(failure: Failure, advice: str | None) -> str:
    """Why something failed, the end of its log, and what to do."""
    parts = [f"  Why: {failure.why}"]
    if failure.log is not None:
        tail = processes.last_lines(failure.log, 15)
        parts += [f"  The last lines of {failure.log}:", *(f"    | {line[:300]}" for line in tail)]
    if advice:
        parts.append(f"  What to do: {advice}")
    return "\n".join(parts)


def run(command: Command, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Runs a command with its output in the log and a line on the screen every 15 s; raises Failure when it fails."""
    with log.open("ab") as output:
        output.write(f"$ {' '.join(str(part) for part in command)}\n".encode())
        output.flush()
        try:
            process = processes.start(command, output, env, cwd)
        except OSError as error:
            raise Failure(f"{command[0]} could not be started: {error}", log=log) from error
        with stopped_on_the_way_out(process):
            code = wait(process, log)
    if code:
        start = " ".join([Path(command[0]).name, *map(str, command[1:4])])
        raise Failure(f"`{start} ...` ended with code {code}", log=log)


@contextmanager
def stopped_on_the_way_out(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the process when the block is left before it ended by itself."""
    try:
        yield
    finally:
        if process.poll() is None:
            processes.stop(process)


def wait(process: subprocess.Popen[bytes], log: Path) -> int:
    """Waits for a process and says every 15 s how long it has been and what it last wrote."""
    started = time.monotonic()
    while True:
        try:
            return process.wait(TICK)
        except subprocess.TimeoutExpired:
            latest = processes.last_lines(log, 1)
            say(f"    {elapsed(started):>7}  {latest[0].strip()[:90] if latest else ''}")


def elapsed(started: float) -> str:
    """The time since `started`, as a person says it."""
    seconds = time.monotonic() - started
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def say(line: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(line, file=sys.stdout, flush=True)
