"""Reads from llama.cpp's log which buffers it allocates for a language model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

from native.llm.model import LocalModel
from native.llm.server_process import task_of
from native.process.child import PACK

# "llama_kv_cache:    Vulkan0 KV buffer size =     4.00 MiB", and the line behind the last such
_ALLOCATED = re.compile(r"(\w+) (model|KV|output|compute) buffer size = +([\d.]+) MiB")
_ALL_SAID = "sched_reserve: reserve took"
_LOADING = """
import json, os, sys
from native.llm.serve import parameters, xllamacpp
from native.llm.task import Task
wanted = parameters(Task(**json.loads(sys.argv[1])))
wanted.verbosity = 5
server = xllamacpp.Server(wanted)
sys.stdin.read()
os._exit(0)  # its end waits for threads of its own
"""


def allocated(model: LocalModel) -> Counter[tuple[str, str]]:
    """MiB by where, such as Vulkan0, and kind; those of the output count as of computing.

    The log comes from a thread that may be behind.
    """
    command = [sys.executable, "-c", _LOADING, json.dumps(asdict(task_of(model, "k")))]
    found: Counter[tuple[str, str]] = Counter()
    with subprocess.Popen(command, cwd=PACK, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stderr
        for line in child.stderr:
            for where, kind, size in _ALLOCATED.findall(line):
                found[where, "compute" if kind == "output" else kind] += float(size)
            if _ALL_SAID in line:
                child.stdin.close()
    return found
