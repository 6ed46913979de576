"""Plans are made beside the prompt that runs, to which ComfyUI's one flag for interruptions belongs."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import TypeVar

from comfy.model_management import InterruptProcessingException, interrupt_current_processing, processing_interrupted
from server import PromptServer

Result = TypeVar("Result")
_POLL = 0.05  # seconds


def beside_what_runs(plan: Callable[[], Result]) -> Result:
    """What `plan` returns, outside of ComfyUI's executing thread.

    Core's layers and nodes take the flag back when they find it set, on whatever thread: it is set again for the
    prompt that runs, and the plan is begun anew once that has seen it.
    """
    while True:
        try:
            return plan()
        except InterruptProcessingException:
            if _prompt_runs():
                interrupt_current_processing()
            while processing_interrupted() and _prompt_runs():
                sleep(_POLL)


def _prompt_runs() -> bool:
    running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    return bool(running)
