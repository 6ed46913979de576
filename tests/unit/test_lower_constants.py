"""Constants of a trace: made when they are asked for, and tables of positions on a grid as sums of small ones."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
import torch

from native.lower import Lowered, LowerOptions, lower
from native.lower.grids import by_axis
from native.trace import trace

GRID = (5, 6, 7)
PAIRS = 40  # for each axis


def _angles() -> torch.Tensor:
    """Of positions on GRID, along one axis for each channel: [1, positions, 3 * PAIRS]."""
    axes = torch.meshgrid(*(torch.arange(n) + 1.0 for n in GRID), indexing="ij")
    return torch.cat([axis.reshape(1, -1, 1) / torch.arange(1, PAIRS + 1) for axis in axes], -1)


def _lowered(function: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> Lowered:
    traced = trace("a model", torch.nn.Identity(), lambda _, t: function(t["x"]), {"x": torch.zeros(shape)})
    return lower(traced, {}, LowerOptions(islands=False))


def test_a_table_is_the_sum_of_its_axes() -> None:
    """Exactly, each channel along one axis; one that never changes is along any of them."""
    table = _angles()[0].cos().numpy()
    table[:, 11] = 0.25
    found = by_axis(table)
    assert found is not None
    grid, tables = found
    assert grid == GRID
    frames, rows, columns = tables
    whole = frames[:, None, None] + rows[None, :, None] + columns[None, None]
    assert np.array_equal(whole.reshape(prod(GRID), -1), table)


def test_an_axis_along_which_nothing_changes() -> None:
    """The times of a video's tokens are alike in a frame."""
    found = by_axis(np.repeat(np.arange(12, dtype=np.float32).reshape(4, 3), 6, 0))
    assert found is not None
    assert found[0] == (4, 6)
    assert [part.shape for part in found[1]] == [(4, 3)]


@pytest.mark.parametrize("row", [0, 100, prod(GRID) - 1])
def test_a_table_that_is_another_somewhere(row: int) -> None:
    """It stays whole."""
    table = _angles()[0].sin().numpy()
    table[row, 3] += 1
    assert by_axis(table) is None


def test_positions_of_their_own() -> None:
    """A table without a grid stays whole."""
    assert by_axis(np.arange(24, dtype=np.float32).reshape(8, 3)) is None


def test_a_large_table_is_made_on_the_device() -> None:
    """Its program holds what the axes need, not the product of their positions."""
    shape = (1, 16 * prod(GRID), 3 * PAIRS)

    def function(x: torch.Tensor) -> torch.Tensor:
        frames = torch.arange(16).repeat_interleave(prod(GRID)).reshape(1, -1, 1) * torch.ones(3 * PAIRS)
        return x * frames

    constants = _lowered(function, *shape).program.constants
    assert sum(array.size for array in constants.values()) == 16 * 3 * PAIRS


def test_what_is_written_into_later_is_made_at_once() -> None:
    """A value read before a write is the one from before it."""

    def function(x: torch.Tensor) -> torch.Tensor:
        table = torch.arange(32) * 1.5
        before = table * 2
        table[:4] = -1.0
        return x + before + table * torch.arange(32)

    values = [array for array in _lowered(function, 2, 32).program.constants.values() if array.shape == (32,)]
    table = np.arange(32, dtype=np.float32) * 1.5
    before = table * 2
    table[:4] = -1
    assert any(np.array_equal(array, before) for array in values)
    assert any(np.array_equal(array, table * np.arange(32)) for array in values)


def test_one_of_stacked_constants_is_read_without_the_stack() -> None:
    """As rotary tables are read; the values are those of that one."""

    def function(x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(64).reshape(2, 32) / 7
        matrix = torch.stack((angles.cos(), -angles.sin(), angles.sin(), angles.cos()), -1).reshape(2, 32, 2, 2)
        return x * matrix[..., 0, 1] + matrix[:, 1:2, 1, 0]

    constants = list(_lowered(function, 2, 32).program.constants.values())
    angles = torch.arange(64).reshape(2, 32) / 7
    assert any(np.array_equal(array, -angles.sin().numpy()) for array in constants)
    assert any(np.array_equal(array, angles.sin()[:, 1:2].numpy()) for array in constants)
