"""Runs that end once everything is allocated, as lavapipe takes long to compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.pack import part

errors = part("native.errors")


def stopping(run: Callable[..., Any]) -> Callable[..., Any]:
    """Runner.run that goes no further on a GPU than it takes to have everything allocated, and returns zeros."""

    def until_it_computes(runner: Any, weights: Any, placement: Any, program: Any, *more: Any, **named: Any) -> Any:
        if placement.device == "CPU":
            return run(runner, weights, placement, program, *more, **named)

        def computing() -> bool:
            held = [model for model in runner.memory().models if model.digest == weights.digest]
            return any(model.device == placement.device and model.compute for model in held)

        try:
            return run(runner, weights, placement, program, more[0], computing, *more[2:], **named)
        except errors.Interrupted:
            return [np.zeros(output.shape, np.float32) for output in program.outputs]

    return until_it_computes
