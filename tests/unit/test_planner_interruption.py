"""An interruption met while planning is handed on: it is for the prompt that runs.

Only a ComfyUI before 0.27, where it is an ordinary Exception, can fail this; `dev.py matrix` runs it there.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.pack import part

other_nodes, middleware = part("nodes.planner.other_nodes"), part("nodes.planner.middleware")

from comfy.model_management import InterruptProcessingException  # noqa: E402

import nodes  # noqa: E402


class Interrupted:
    """A node of ComfyUI that looks for interruptions while it works, and meets one."""

    FUNCTION = "work"

    def work(self) -> tuple[Any, ...]:
        raise InterruptProcessingException


def test_by_a_node_that_is_executed_for_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Interrupted", Interrupted)
    with pytest.raises(InterruptProcessingException):
        other_nodes.execute("Interrupted", {})


def test_by_a_prompt_that_is_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_plan(*_: Any) -> None:
        raise InterruptProcessingException

    monkeypatch.setattr(middleware, "make_plan", make_plan)
    with pytest.raises(InterruptProcessingException):
        middleware._plan_posted({"prompt": {"1": {"class_type": "GGMLMemoryPlanner", "inputs": {}}}})
