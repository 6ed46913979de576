"""Read by every Python at its start that finds it: on SIGUSR1 it writes where its threads are into a file."""

import faulthandler
import os
import signal

if hasattr(signal, "SIGUSR1"):
    file = open(f"{os.environ['TEST_STACKS']}/{os.getpid()}.txt", "w")  # noqa: SIM115, open as long as the process
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)
