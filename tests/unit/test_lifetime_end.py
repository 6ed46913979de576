"""Python ends while a model that is gone is being freed."""

from __future__ import annotations

import subprocess
import sys

from tests import pack

# As a model's release does, this one drops tensors: a thread that is in their destructor when Python ends aborts it.
SCRIPT = """
import time
from types import SimpleNamespace

import torch

from tests.pack import module_alone

lifetime = module_alone("nodes.components.lifetime")
lifetime._GRACE = 0.0
lifetimes = lifetime.ProcessLifetimes()


class Model:
    weights = file_weights = SimpleNamespace(digest="the weights")
    placement = None

    def unload(self):
        print("begun", flush=True)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            [torch.empty(1 << 18) for _ in range(50)]
        print("freed", flush=True)


class Owner:
    pass


owner = Owner()
kept = lifetime.LoadedWeights(Model(), owner, lifetimes)
del owner
while lifetimes._orphans:
    time.sleep(0.01)
time.sleep(0.3)
"""


def test_what_is_being_freed_is_freed_before_the_end() -> None:
    line = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(line, cwd=pack.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "begun\nfreed\n"), done.stderr
