"""How a test of families notes the figures that it measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Figure = Callable[[str, str, float], None]  # the name of a case, the column of its result, how far it is from torch


@pytest.fixture
def figure(record_property: Callable[[str, Any], None]) -> Figure:
    """--figures takes them to results.json."""
    return lambda name, column, error: record_property("family", (name, column, error))
