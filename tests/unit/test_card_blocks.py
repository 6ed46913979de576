"""The tables of the card check: up to date with ComfyUI's classes; and what is made of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from native.card.blocks import NARROW, blocks
from native.card.compare import difference
from native.card.isolate import operations, single
from native.card.peaks import published_peak
from native.program.ops import is_view
from tests import card_blocks

BLOCKS = {block.name: block for block in blocks()}


@pytest.mark.parametrize("block", card_blocks.BLOCKS, ids=lambda block: block.name)
def test_table_is_what_comfyui_has(block: card_blocks.Block) -> None:
    """Else run `python -m tests.card_blocks`."""
    stored = json.loads((card_blocks.FOLDER / f"{block.file}.json").read_text(encoding="utf-8"))
    assert stored["sizes"][NARROW] == json.loads(json.dumps(card_blocks.table(card_blocks.program(block, NARROW))))


@pytest.mark.parametrize("size", card_blocks.PIXELS)
@pytest.mark.parametrize("name", BLOCKS)
def test_programs_are_sound(name: str, size: str) -> None:
    """Also those of the operations alone, of which none is left out."""
    work = BLOCKS[name].work(size)
    work.program.check()
    made = operations(work, 64 << 20)
    for each in made:
        each.program.check()
        assert all(row.kind != "input" for row in each.program.tensors)
    computed = {row.name for row in work.program.tensors if row.kind == "op" and not is_view(row)}
    assert {row.name for each in made for row in each.program.tensors if row.kind == "op"} >= computed
    assert sum(4 * np.prod(output.shape) for output in made[0].program.outputs) <= 64 << 20 or len(made[0].names) == 1


def test_single_operations_are_programs_of_their_own() -> None:
    work = operations(BLOCKS["FLUX.1"].work(NARROW), 64 << 20)[0]
    alone = list(single(work))
    assert [each.names[0] for each in alone] == list(work.names)
    for each in alone:
        each.program.check()
        assert sum(row.kind == "op" and not is_view(row) for row in each.program.tensors) <= 2  # and a cast


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x * 1.001, ""),
        (lambda x: x * 1.1, "off by 10.0% where 3.0% are usual"),
        (lambda x: np.where(np.arange(x.size) == 7, x + 5, x), "0.10% of its values are wrong"),
        (lambda x: np.where(np.arange(x.size) < 100, 0, x), "10.00% are 0 instead"),
        (lambda x: np.where(np.arange(x.size) == 7, np.inf, x), "0.10% of its values are infinite or not a number"),
        (lambda x: x[:-1], "its shape is [999] instead of [1000]"),
    ],
)  # fmt: skip
def test_difference_in_words(change: object, said: str) -> None:
    expected = np.random.default_rng(1).standard_normal(1000).astype("f4")
    found = difference(change(expected), expected, 3e-2)  # type: ignore[operator]
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("description", "tflops"),
    [
        ("AMD Radeon RX 580 (RADV POLARIS10)", 6.2), ("AMD Radeon RX 580 2048SP (RADV POLARIS10)", 5.3),
        ("Radeon RX 580 Series", 6.2), ("NVIDIA GeForce RTX 3060", 12.7), ("NVIDIA GeForce RTX 3060 Ti", 16.2),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", None), ("Intel(R) Arc(tm) A750 Graphics (DG2)", 17.2),
        ("AMD Radeon RX 6600 XT", 10.6), ("NVIDIA GeForce GTX 1070 Ti", 8.2),
        ("llvmpipe (LLVM 15.0.6, 256 bits)", None),
    ],
)  # fmt: skip
def test_published_peak_of_a_card(description: str, tflops: float | None) -> None:
    peak = published_peak(description)
    assert (peak and peak[0]) == (None if tflops is None else pytest.approx(tflops * 1e12))
