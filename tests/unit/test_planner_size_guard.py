"""Nodes executed for a plan cannot take the computer's memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.pack import part

size_guard, unknown = part("nodes.planner.size_guard"), part("nodes.planner.unknown")
dry_run = part("native.engines.dry_run")

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


@pytest.mark.parametrize("frames", [20, 149])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_writing_into_a_picture_takes_no_memory(frames: int, dtype: torch.dtype) -> None:
    """A node that writes frame after frame into what it has made, or into what it is given."""
    shape = frames, 1280, 720, 3
    frame = torch.full(shape[1:], 0.5)
    with size_guard.SizeGuard():
        for video in (torch.zeros(shape, dtype=dtype), torch.ones(shape).mul_(0.5), dry_run.unwritten_zeros(shape)):
            for number in range(frames):
                video[number] = frame
                video[number, :8].mul_(2.0)
            video[torch.arange(4)] = frame
            torch.add(video[:1], 1, out=video[1:2])
            assert video.shape == shape
            nbytes = video.untyped_storage().nbytes()
            assert nbytes < 1 << 10


def test_a_small_picture_and_a_large_mask_are_written() -> None:
    """Their values may steer what a node does; so is a result whose operands take no memory."""
    with size_guard.SizeGuard():
        small, mask = torch.zeros(1, 64, 64, 3), torch.zeros(8, 1280, 720)
        small[:, :8] = 1.0
        mask[2:4] = 1.0
        torch.add(torch.zeros(()).expand(4, 4), 1, out=(total := torch.empty(4, 4)))
    assert small.sum() == 8 * 64 * 3
    assert mask.sum() == 2 * 1280 * 720
    assert total.sum() == 16


def test_what_is_made_of_a_large_picture_is_as_unknown() -> None:
    """To compute it torch would make a copy of what takes no memory."""
    with size_guard.SizeGuard():
        small = torch.nn.functional.interpolate(dry_run.unwritten_zeros((1, 3, 4096, 4096)), size=(64, 64))
    assert small.shape == (1, 3, 64, 64)
    assert not any(small.stride())
