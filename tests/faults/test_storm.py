"""Three minutes of `python3 dev.py storm`: faults at random over pictures that are known."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest

from tests.storm.__main__ import report, storm
from tests.storm.faults import FAULTS
from tests.storm.jobs import Task
from tests.storm.rounds import Storm, is_clear

MINUTES = 3.0


def test_nothing_goes_wrong_in_silence() -> None:
    """Each day another storm; the report has its seed."""
    seed = datetime.now(timezone.utc).timetuple().tm_yday
    found = Storm()
    storm(MINUTES, seed, found, vulkan=False)  # on software a picture takes a minute where two workers share it
    print(f"seed {seed}\n{report(found)}")
    assert not found.bad(), f"seed {seed}\n{report(found)}"
    assert found.counts()["right"] >= 3
    assert sum(bool(event.faults) for event in found.events) >= 2


@pytest.mark.parametrize(
    ("said", "fault", "clear"),
    [
        ("The process that runs the models ended twice over the same request.", "a child is killed", True),
        ("'NoneType' object has no attribute 'x'", "a child is killed", False),
        ("flux.gguf ends after 12 bytes", "a file cut off", True),
        ("the file ends after 12 bytes", "a file cut off", False),
        ("flux.gguf is damaged", "an interrupt", False),
    ],
)
def test_an_error_is_clear_when_it_names_the_cause(said: str, fault: str, clear: bool) -> None:
    assert is_clear(said, (fault,), {"flux.gguf"}) is clear
    assert fault in FAULTS


def test_another_picture_is_not_the_right_one() -> None:
    picture = np.full((4, 4, 3), 100, np.uint8)
    task = Task("it", {}, picture)
    assert task.is_right(picture + 2)
    assert not task.is_right(picture + 10)
    assert not task.is_right(picture[:2])
