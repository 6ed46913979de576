"""The number of threads that compute on the CPU, as the user sets it."""

from __future__ import annotations

import os

from .errors import RunnerError

VARIABLE = "GGML_CPU_THREADS"


def wanted_threads() -> int | None:
    """The threads of either engine; None: one for each physical core. Raises RunnerError for what is no number."""
    said = os.environ.get(VARIABLE, "")
    if not said:
        return None
    if not said.isdecimal() or int(said) < 1:
        raise RunnerError(f"The environment variable {VARIABLE} is {said!r}, which is not a number of threads: "
                          "set it to 1 or more, or remove it for one thread on each core.")  # fmt: skip
    return int(said)
