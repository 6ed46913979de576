"""Keys and values of the tokens of a text so far, in rows of a fixed number, which a program of one token writes into.

Rows may be in any order, as they have been turned by their positions already; a mask says which are filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from .attention_override import own_attention

_LEAST_ROWS = 256  # of keys and values; twice as many whenever they are full, but no more than the text may need
_ANY_ROWS = 1 << 20  # more than any layer looks back


class Rows:
    """Keys or values of a layer, [batch, heads, rows, channels], as core's attention writes and reads a cache of them.

    What it writes goes to the row `number`, wherever core counts it; what it reads is all of them.
    """

    def __init__(self, rows: Tensor, number: Tensor) -> None:
        self.shape = rows.shape
        self.written = rows[:, :, :1]
        self._rows, self._number = rows, number

    def __setitem__(self, _place: Any, new: Tensor) -> None:
        self.written = new
        self._rows.index_copy_(2, self._number, new)

    def __getitem__(self, _place: Any) -> Tensor:
        return self._rows


class _KeyCounts(TorchFunctionMode):
    """Notes how many keys each attention has."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            self.counts.append(args[1].shape[-2])
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Layers:
    """The caches that core makes: shapes of a layer's keys and values for one row, and how far each layer looks back.

    windows: the most tokens, with the newest; None: all.
    """

    shapes: tuple[tuple[int, ...], ...]
    windows: tuple[int | None, ...]


@torch.inference_mode(False)
@torch.no_grad()
@_disable_current_modes()  # a plan's guard of sizes would count tensors without values
def layers_of(core: Any, batch: int, width: int, given: Sequence[Any] = ()) -> Layers | None:
    """The caches of core's model; None where they are no keys and values, a row for each token.

    given: the caches that a loop of core's made for a model that does not make them itself.
    """
    make = getattr(core, "init_kv_cache", None)
    made = make(batch, _ANY_ROWS, torch.device("meta"), torch.float32) if make else list(map(_of_any_rows, given))
    pairs = [each[:2] for each in made if len(each) == 3]
    tensors = [x for pair in pairs for x in pair]
    if len(pairs) != len(made) or not all(isinstance(x, Tensor) and x.shape[2:3] == (_ANY_ROWS,) for x in tensors):
        return None
    number, position, mask = (
        torch.empty(shape, device="meta", dtype=torch.int64) for shape in ((1,), (1, 1), (batch, _ANY_ROWS))
    )
    past = [(Rows(k, number), Rows(v, number), _ANY_ROWS - 1) for k, v in pairs]
    with own_attention(), _KeyCounts() as noted:
        core.model.forward(
            None, embeds=torch.empty((batch, 1, width), device="meta"), past_key_values=past,
            attention_mask=mask, position_ids=position,
        )  # fmt: skip
    windows = [None if count == _ANY_ROWS else count for count in noted.counts]
    shapes = tuple((*k.shape[:2], 1, k.shape[3]) for k, _ in pairs)
    if len(windows) != len(pairs) or len(set(windows) - {None}) > 1 or any(k.shape != v.shape for k, v in pairs):
        return None
    return Layers(shapes, tuple(windows))


def _of_any_rows(given: Sequence[Any]) -> tuple[Any, ...]:
    """A layer's cache as it would be with so many rows; what has no rows stays as it is."""
    return tuple(
        torch.empty((*x.shape[:2], _ANY_ROWS, x.shape[3]), device="meta")
        if isinstance(x, Tensor) and x.ndim == 4 else x
        for x in given
    )  # fmt: skip


@dataclass
class Cache:
    """Keys and values of the tokens so far, as the program has them.

    limit: tokens of the longest text. rows: of layers that look back at all of it. A layer with a window has as many as
    it looks back, filled in turn, and a first one besides, of which core takes no notice. So that one mask fits all
    layers, tokens fill the last rows first where there is a window.
    """

    layers: Layers
    limit: int
    tokens: int = 0
    rows: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict)
    series: str = ""
    turn: int = 0

    @property
    def window(self) -> int | None:
        """How far those layers look back that do not see all rows; None where all layers see all."""
        found = next((each for each in self.layers.windows if each), None)
        return found if found and self.rows > found else None

    def rows_of(self, layer: int) -> int:
        """The rows of a layer."""
        window = self.layers.windows[layer]
        return window + 1 if window and self.rows > window else self.rows

    def place(self, token: int, rows: int) -> int:
        """The row of a token in a layer of so many rows."""
        window = self.window
        if window is None:
            return token
        if rows == window + 1:
            return 1 + token % window
        return rows - window + token if token < window else token - window

    def mask(self, seen: Tensor) -> Tensor:
        """1 for the rows of the tokens that count, 0 for the others, [batch, rows].

        seen: 1 for each token that counts, 0 for each that only fills the prompt up, [batch, tokens].
        """
        tokens, window = seen.shape[1], self.window or 0
        mask = torch.zeros((seen.shape[0], self.rows), dtype=torch.int64)
        newest = self.rows - window
        mask[:, newest : newest + min(tokens, window)] = seen[:, :window]
        mask[:, : max(0, tokens - window)] = seen[:, window:]
        return mask

    def put(self, layer: int, tokens: Sequence[int], *new: Tensor) -> None:
        """Write the keys and values of tokens, [batch, heads, tokens, channels]; those out of sight are left out."""
        rows = self.rows_of(layer)
        seen = [at for at, token in enumerate(tokens) if rows == self.rows or token >= tokens[-1] + 1 - (rows - 1)]
        places = [self.place(tokens[at], rows) for at in seen]
        for name, x in zip(names_of(layer), new, strict=True):
            self.kept[name][:, :, places] = x[:, :, seen]

    def read(self, layer: int) -> tuple[range, tuple[Tensor, ...]]:
        """The tokens whose keys and values a layer still has, and these in their order."""
        rows = self.rows_of(layer)
        tokens = range(max(0, self.tokens - (rows if rows == self.rows else rows - 1)), self.tokens)
        places = [self.place(token, rows) for token in tokens]
        return tokens, tuple(self.kept[name][:, :, places] for name in names_of(layer))

    def reserve(self, tokens: int, empty: Callable[[tuple[int, ...]], Tensor]) -> None:
        """Have room for so many tokens; empty: makes what is written into."""
        if tokens <= self.rows:
            return
        held = [self.read(layer) for layer in range(len(self.layers.shapes))] if self.rows else []
        longest = -(-self.limit // _LEAST_ROWS) * _LEAST_ROWS
        while self.rows < tokens:
            self.rows = min(max(_LEAST_ROWS, 2 * self.rows), longest)
        for layer, (batch, heads, _, channels) in enumerate(self.layers.shapes):
            for name in names_of(layer):
                self.kept[name] = empty((batch, heads, self.rows_of(layer), channels))
        for layer, (before, values) in enumerate(held):
            self.put(layer, before, *values)
        self.series, self.turn = uuid4().hex, 0


def names_of(layer: int) -> tuple[str, str]:
    return f"keys.{layer}", f"values.{layer}"
