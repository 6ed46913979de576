"""Child processes that end with everything they started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

Command = Sequence[str | Path]

# Variables by which the Python that runs dev.py would leak into the ones it starts. Without bytecode each start of
# ComfyUI takes two seconds more.
FOREIGN = ("PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def start(
    command: Command, output: IO[bytes], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command in a process group of its own, both its streams going to `output`."""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment.update(env or {})
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=cwd,
        start_new_session=True,  # a process group of its own; means nothing on Windows
    )


def stop(process: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    """Ends a process of `start` and all that is left of its group; waits `grace` seconds before it insists."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
        process.wait()
        return
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: int) -> None:
    if sys.platform != "win32":
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def last_lines(log: Path, count: int) -> list[str]:
    """The last non-empty lines of a log, without colours and what progress bars overwrote."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = (line.rstrip().rsplit("\r", 1)[-1] for line in COLOUR.sub("", text).split("\n"))
    return [line for line in lines if line.strip()][-count:]
