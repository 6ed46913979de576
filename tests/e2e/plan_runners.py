"""The two runners of a test that compares a plan with what is then taken: one that computes, one for dry runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.pack import part
from tests.runner_toys import new_runner

client, planner = part("native.client.runner"), part("nodes.planner.planner")


@contextmanager
def runners_of_plans(monkeypatch: pytest.MonkeyPatch, limit: int | None = None) -> Iterator[Any]:
    """Has nodes and planner use new runners, of a GPU of so many bytes where that is said; gives the one that computes.

    Segments are small, so that a plan of several is met.
    """
    options = ("--largest-segment", "4e7", *(() if limit is None else ("--device-memory", str(limit))))
    toys = [new_runner(*options) for _ in range(2)]
    real, dry_runner = (client.Runner(toy._options, toy._environment) for toy in toys)
    monkeypatch.setattr(client, "_shared", real)
    monkeypatch.setattr(planner, "_runner", dry_runner)
    try:
        yield real
    finally:
        real.close()
        dry_runner.close()
