"""Nodes executed for a plan cannot take the computer's memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.pack import part

size_guard, unknown = part("nodes.planner.size_guard"), part("nodes.planner.unknown")

HUGE = 1 << 29  # elements: 2 GiB
SOME = torch.zeros(1, 4, 64, 64)
LARGE = torch.zeros(()).expand(HUGE)  # takes nothing


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(HUGE),
        lambda: torch.full([HUGE], 3.0),
        lambda: torch.empty(HUGE),
        lambda: SOME.repeat(1 << 17, 1, 1, 1),
        lambda: torch.nn.functional.interpolate(SOME, size=(16384, 16400)),
        lambda: torch.cat([LARGE[: HUGE // 2 + 1]] * 2),
        lambda: LARGE + 1,
        lambda: LARGE.clone(),
        lambda: LARGE.contiguous(),
    ],
)  # fmt: skip
def test_what_is_huge_is_refused(make: Callable[[], torch.Tensor]) -> None:
    with size_guard.SizeGuard(), pytest.raises(unknown.Unplanned, match=r"it makes a tensor of [\d.]+ GiB"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1, 16, 512, 512),
        lambda: SOME.repeat(64, 1, 1, 1),
        lambda: torch.zeros(()).expand(HUGE),
        lambda: LARGE.view(1 << 10, -1)[:4],
        lambda: torch.nn.functional.interpolate(SOME, size=(1024, 1024)),
        lambda: torch.cat([LARGE[: 49 * 2000 * 3840].view(1, 49, 2000, 3840)], dim=-2),  # states of a text encoder
    ],
)  # fmt: skip
def test_what_is_usual_is_made(make: Callable[[], torch.Tensor]) -> None:
    with size_guard.SizeGuard():
        assert make().numel()
