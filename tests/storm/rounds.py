"""The storm: jobs one after the other with faults meanwhile, and what became of each."""

from __future__ import annotations

import random
import re
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import comfy_server
from tests.comfy_server import Client, Interrupted, JobFailed, Refused, eventually

from .faults import FAULTS, Scene, children
from .jobs import Task

OUTCOMES = (
    "right", "clear error", "interrupted", "wrong", "unclear error", "hung", "dead server", "orphan",
)  # fmt: skip
BAD = OUTCOMES[3:]
RAW = re.compile(r"Traceback|NoneType|KeyError|AttributeError|TypeError|has no attribute|IndexError|AssertionError")
_ANSWER_LIMIT = 60.0  # seconds for /system_stats on a machine that is busy
_CLOSE_LIMIT = 60.0  # seconds in which all processes of a killed server end


@dataclass(frozen=True)
class Event:
    """One job in the storm: which faults struck, what became of it, in which words."""

    round: int
    job: str
    faults: tuple[str, ...]
    outcome: str
    detail: str = ""


@dataclass
class Storm:
    """All that happened so far."""

    events: list[Event] = field(default_factory=list)

    def counts(self) -> Mapping[str, int]:
        """Jobs by outcome."""
        found = Counter(event.outcome for event in self.events)
        return {outcome: found[outcome] for outcome in OUTCOMES}

    def by_fault(self) -> Mapping[str, Mapping[str, int]]:
        """The same by each fault that struck."""
        return {name: Counter(event.outcome for event in self.events if name in event.faults) for name in FAULTS}

    def bad(self) -> list[Event]:
        """Events that must not happen."""
        return [event for event in self.events if event.outcome in BAD]


def play(client: Client, tasks: Sequence[Task], models: Path, chance: random.Random, end: float, storm: Storm) -> None:
    """Rounds until `end` (time.monotonic): a job in faults, then one in peace, which must be right.

    Returns early where the server is dead.
    """
    while time.monotonic() < end:
        task = chance.choice(tasks)
        struck = _chosen(chance)
        for faults in (struck, ()):
            number = len(storm.events)
            outcome, detail = _round(client, task, faults, Scene(client, models, task.workflow, chance))
            storm.events.append(Event(number, task.name, faults, outcome, detail))
            if not _answers(client):
                storm.events.append(Event(number, task.name, faults, "dead server", _end_of_log(client)))
                return
            task = chance.choice(tasks)


def _chosen(chance: random.Random) -> tuple[str, ...]:
    names = list(FAULTS)
    weights = [FAULTS[name].weight for name in names]
    return tuple(dict.fromkeys(chance.choices(names, weights, k=chance.choice((1, 1, 2)))))


def _round(client: Client, task: Task, faults: tuple[str, ...], scene: Scene) -> tuple[str, str]:
    """One job with these faults, each at a moment of its own; its outcome and the words for it."""
    with _striking(scene, faults) as failures:
        outcome, detail = _outcome(client, task, faults)
    if failures and outcome not in BAD:
        return "unclear error", "; ".join(failures)
    return outcome, detail


def _outcome(client: Client, task: Task, faults: tuple[str, ...]) -> tuple[str, str]:
    files = {str(value) for node in task.workflow.values() for value in node["inputs"].values()}
    try:
        picture = client.draw(task.workflow)
    except Interrupted:
        return ("interrupted", "") if "an interrupt" in faults else ("unclear error", "interrupted by nobody")
    except JobFailed as failure:
        said = f"{task.workflow[failure.node]['class_type']}: {failure.message}"
    except Refused as refused:
        said = str(refused)
    except TimeoutError as error:
        return "hung", str(error)
    except OSError as error:  # the server went away
        return "unclear error", f"{type(error).__name__}: {error}"
    else:
        return ("right", "") if task.is_right(picture) else ("wrong", f"mean {picture.mean():.1f}")
    return ("clear error" if is_clear(said, faults, files) else "unclear error"), said


def is_clear(said: str, faults: Sequence[str], files: set[str]) -> bool:
    """Whether an error is in words for people and names a cause that one of the faults has."""
    names = "|".join(re.escape(name) for name in files if "." in name)
    causes = (FAULTS[fault].causes.replace("{file}", names) for fault in faults)
    return not RAW.search(said) and any(cause and re.search(cause, said) for cause in causes)


@contextmanager
def _striking(scene: Scene, faults: tuple[str, ...]) -> Iterator[list[str]]:
    """Faults while the block runs, each after a moment; gives what they themselves found wrong."""
    over = threading.Event()
    failures: list[str] = []

    def strike(name: str, after: float) -> None:
        over.wait(after)
        try:
            with FAULTS[name].strike(scene):
                over.wait()
        except AssertionError as error:
            failures.append(str(error))

    delays = [scene.chance.choice((0.0, scene.chance.uniform(0, 3))) for _ in faults]
    threads = [threading.Thread(target=strike, args=each) for each in zip(faults, delays, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _answers(client: Client) -> bool:
    if client.server.process.poll() is not None:
        return False
    with suppress(TimeoutError):
        return bool(eventually(lambda: _stats(client), "an answer", _ANSWER_LIMIT))
    return False


def _stats(client: Client) -> bool:
    with suppress(OSError):
        client.server.get("/system_stats")
        return True
    return False


def _end_of_log(client: Client) -> str:
    return client.server.log.read_text(encoding="utf-8", errors="replace")[-2000:]


@contextmanager
def watched_server(base: Path, models: Path, storm: Storm) -> Iterator[Client]:
    """A server that is killed at the end; whatever it started and is alive then is an orphan."""
    seen: dict[int, psutil.Process] = {}
    over = threading.Event()

    def watch(client: Client) -> None:
        while not over.wait(0.2):
            seen.update((child.pid, child) for child in children(client))

    with comfy_server.running(base, models, python=_spared_python(base)) as client:
        watcher = threading.Thread(target=watch, args=(client,))
        watcher.start()
        try:
            yield client
        finally:
            over.set()
            watcher.join()
            with suppress(ProcessLookupError):
                client.server.process.send_signal(signal.SIGKILL)
            client.server.process.wait()
            for orphan in _still_there(seen.values()):
                storm.events.append(Event(len(storm.events), "", (), "orphan", " ".join(orphan.cmdline())[-200:]))
                orphan.kill()


def _spared_python(base: Path) -> Path:
    """Python for the server of a storm: a full disk reaches neither its log nor compiled files that others read.

    tqdm keeps its lock when the log cannot be written, and all of ComfyUI then waits for it; Python leaves half a
    compiled file there, and fails over it ever after.
    """
    python = base / "python"
    python.write_text(
        f'#!/bin/bash\nexport PYTHONDONTWRITEBYTECODE=1\nexec {shlex.quote(sys.executable)} "$@" > >(exec cat) 2>&1\n'
    )
    python.chmod(0o755)
    return python


def _still_there(processes: Collection[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end in time. psutil.wait_procs fails where a pid is gone in the moment that it asks."""
    end = time.monotonic() + _CLOSE_LIMIT
    while (left := [each for each in processes if _runs(each)]) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
