"""Streams weights from RAM through two buffers of a device: one block arrives while the one before computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..device.buffers import Allocation, allocate, device_bytes, new_buffer, require
from ..device.devices import Device

SMALL = 64 << 10  # bytes; smaller weights stay on the device: a copy of each at every run costs too much
_TOGETHER = 64 << 20  # bytes of weights that are brought in one piece, where they are used one after the other
_LONGEST = 8  # a weight whose uses lie further apart than this part of a run stays on the device, too
Uses = Mapping[str, tuple[int, int]]  # weight -> the first and the last segment of a graph that use it


@dataclass(frozen=True)
class Block:
    """Consecutive segments of a graph, and the weights that they alone use."""

    first: int
    last: int
    names: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True)
class Plan:
    """A split of streamed weights: those kept on the device, and blocks that pass through it in the order of use."""

    kept: tuple[str, ...]
    blocks: tuple[Block, ...]
    kept_nbytes: int

    @property
    def staging(self) -> tuple[int, int]:
        """Bytes of the two staging buffers."""
        return _staging(self.blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of the device in all."""
        return self.kept_nbytes + sum(self.staging)


def plan(uses: Uses, sizes: Mapping[str, int], segments: int, headroom: int | None) -> Plan:
    """The plan that keeps as many blocks on the device as fit into `headroom` bytes; none of them where that is None.

    sizes: bytes on the device by weight. Where not even the smallest plan fits, that one is returned.
    """
    long_lived = {name for name, use in uses.items() if _is_long_lived(use, segments)}
    blocks = _blocks({name: use for name, use in uses.items() if name not in long_lived}, sizes)
    plans = [_keeping(long_lived, blocks, count, sizes) for count in range(len(blocks) + 1)]
    if headroom is None:
        return plans[0]
    fitting = [each for each in plans if each.nbytes <= headroom]
    return fitting[-1] if fitting else min(plans, key=lambda each: each.nbytes)


def stops(uses: Uses, sizes: Mapping[str, int], nodes: int) -> frozenset[int]:
    """Nodes before which a segment is to end: else one that computes with many layers needs all their weights at once.

    uses: by node instead of segment.
    """
    found, held = set(), 0
    for block in _blocks({name: use for name, use in uses.items() if not _is_long_lived(use, nodes)}, sizes):
        if held and held + block.nbytes > _TOGETHER:
            found.add(block.first)
            held = 0
        held += block.nbytes
    return frozenset(found)


def _is_long_lived(use: tuple[int, int], parts: int) -> bool:
    return use[1] - use[0] > max(_LONGEST, parts // _LONGEST)


def _blocks(uses: Uses, sizes: Mapping[str, int]) -> list[Block]:
    """Weights whose uses overlap belong to one block, so that each weight is brought once a run."""
    blocks: list[Block] = []
    for name, (first, last) in sorted(uses.items(), key=lambda item: (item[1], item[0])):
        if blocks and first <= blocks[-1].last:
            open_ = blocks.pop()
            block = Block(open_.first, max(open_.last, last), (*open_.names, name), open_.nbytes + sizes[name])
        else:
            block = Block(first, last, (name,), sizes[name])
        blocks.append(block)
    return blocks


def _keeping(long_lived: Iterable[str], blocks: Sequence[Block], count: int, sizes: Mapping[str, int]) -> Plan:
    kept = (*sorted(long_lived), *(name for block in blocks[:count] for name in block.names))
    return Plan(kept, tuple(blocks[count:]), sum(sizes[name] for name in kept))


def _staging(blocks: Sequence[Block]) -> tuple[int, int]:
    even, odd = (max((block.nbytes for block in blocks[slot::2]), default=0) for slot in (0, 1))
    return even, odd


class Stream:
    """The weights of a graph as its plan has them; `wait` and `leave` go around the computing of each segment."""

    def __init__(
        self, device: Device, planned: Plan, tensors: Mapping[str, Any], fill: Callable[[str], None], label: str
    ) -> None:
        """tensors: described, without memory; fill: writes a weight where its tensor is by then.

        Raises OutOfMemory; `free` after that, too.
        """
        self._blocks = planned.blocks
        self._tensors = {name: tensors[name] for block in planned.blocks for name in block.names}
        self._tensors |= {name: tensors[name] for name in planned.kept}
        self._fill = fill
        self._placed = Allocation(self._tensors, None, device)
        self._arriving: list[tuple[int, Future[None]] | None] = [None, None]  # by slot: the block in it or on its way
        self._loader = ThreadPoolExecutor(1, "weights")
        try:
            require(device, label, planned.nbytes)
            allocate(self._placed, planned.kept, label)
            for slot, size in enumerate(planned.staging):
                self._place(slot, size, f"a staging buffer for {label}")
            for name in planned.kept:
                fill(name)
        except BaseException:
            self.free()
            raise

    @property
    def weight_bytes(self) -> int:
        """Device memory of what is kept and of the staging buffers."""
        return self._placed.nbytes

    def wait(self, segment: int) -> None:
        """Return once the weights of a segment are on the device."""
        block = next((index for index, block in enumerate(self._blocks) if block.first <= segment <= block.last), None)
        if block is None:
            return
        self._bring(block)
        if block + 1 < len(self._blocks):
            self._bring(block + 1)
        arriving = self._arriving[block % 2]
        assert arriving is not None
        try:
            arriving[1].result()
        except BaseException:
            self._arriving[block % 2] = None
            raise

    def leave(self, segment: int) -> None:
        """Begin to bring what the buffer is needed for next: a later block, or the first of the next run."""
        for index, block in enumerate(self._blocks):
            if block.last == segment:
                self._bring(index + 2 if index + 2 < len(self._blocks) else index % 2)

    def free(self) -> None:
        """Give the memory back; the tensors are as they were before."""
        self._loader.shutdown(cancel_futures=True)
        self._placed.free()
        for tensor in self._tensors.values():
            tensor.contents.data = tensor.contents.buffer = None

    def _place(self, slot: int, size: int, label: str) -> None:
        """Give the weights of every second block their place in one buffer."""
        blocks = self._blocks[slot::2]
        if not blocks:
            return
        device = self._placed.device
        buffer = new_buffer(device, device.buffer_type, size, label)
        self._placed.adopt(buffer, size)
        for block in blocks:
            offset = 0
            for name in block.names:
                tensor = self._tensors[name]
                device.put(tensor, buffer, offset)
                offset += device_bytes(device.buffer_type, tensor)

    def _bring(self, index: int) -> None:
        arriving = self._arriving[index % 2]
        if arriving is None or arriving[0] != index:
            self._arriving[index % 2] = index, self._loader.submit(self._load, self._blocks[index])

    def _load(self, block: Block) -> None:
        for name in block.names:
            self._fill(name)
