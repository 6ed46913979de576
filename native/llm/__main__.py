"""The child process of language models: runs llama.cpp's server on loopback until its stdin ends.

It reads one line of JSON, the fields of a Task, and writes one: {"port": N}, or {"error": TEXT} for errors of its own;
llama.cpp's are on stderr.
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
    """Runs the server until stdin ends."""
    parser = argparse.ArgumentParser(prog="native.llm")
    parser.add_argument("--parent", type=int, required=True, help="process id with which this one ends")
    die_with_parent(parser.parse_args().parent)
    incoming, outgoing = take_pipes()
    task = Task(**json.loads(incoming.readline()))
    threading.Thread(target=_exit_at_end_of, args=(incoming,), daemon=True).start()
    from .serve import Unusable, serve  # loads llama.cpp, whose own printing now goes to stderr

    try:
        reply: dict[str, object] = {"port": serve(task)}
    except Unusable as error:
        reply = {"error": str(error)}
    outgoing.write(json.dumps(reply).encode() + b"\n")
    outgoing.flush()
    if "error" in reply:
        sys.exit(1)  # not at once: llama.cpp's log is written by a thread of its own
    threading.Event().wait()  # the server has threads of its own


def _exit_at_end_of(incoming: BinaryIO) -> None:
    while os.read(incoming.fileno(), 1 << 16):
        pass
    os._exit(0)  # the server's own shutdown waits for requests in progress


if __name__ == "__main__":
    main()
