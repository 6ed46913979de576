"""The child: llama.cpp's server on loopback, until stdin ends.

It reads one line of JSON, the fields of a Task, and writes one: {"port": N}, or {"error": TEXT} for what it can
tell itself; llama.cpp gives its reasons on stderr alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from typing import BinaryIO

from ..process.startup import die_with_parent, take_pipes
from .task import Task


def main() -> None:
    """Run until stdin ends."""
    parser = argparse.ArgumentParser(prog="native.llm")
    parser.add_argument("--parent", type=int, required=True, help="process id whose end is ours too")
    die_with_parent(parser.parse_args().parent)
    incoming, outgoing = take_pipes()
    task = Task(**json.loads(incoming.readline()))
    threading.Thread(target=_end_with, args=(incoming,), daemon=True).start()
    from .serve import Unusable, serve  # loads llama.cpp, whose own printing now goes to stderr

    try:
        said: dict[str, object] = {"port": serve(task)}
    except Unusable as error:
        said = {"error": str(error)}
    outgoing.write(json.dumps(said).encode() + b"\n")
    outgoing.flush()
    if "error" in said:
        sys.exit(1)  # not at once: llama.cpp's log is written by a thread of its own
    threading.Event().wait()  # the server has threads of its own


def _end_with(incoming: BinaryIO) -> None:
    while os.read(incoming.fileno(), 1 << 16):
        pass
    os._exit(0)  # the server's own end waits for requests that are being answered


if __name__ == "__main__":
    main()
