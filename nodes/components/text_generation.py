"""Text that a text encoder of core's writes: the loop and the sampling are core's, each forward is the engine's.

A prompt is one program, with keys and values among its results. Every later token is the same program of another: keys
and values are inputs of a fixed number of rows, which it writes into, so that they stay on the device from token to
token. Rows may be in any order, as they have been turned by their positions already; a mask says which are filled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ...native.engines.dry_run import unwritten_zeros
from ...native.wire.turn import Turn
from .attention_override import own_attention
from .call_arguments import join, part
from .component import Component
from .core_function import with_names

_LEAST_ROWS = 256  # of keys and values; twice as many whenever they are full, but no more than the text may need
_ANY_ROWS = 1 << 20  # more than any layer looks back
_HEADS = ("lm_head", "embed_tokens")  # core's layers whose weight makes logits, the first of them that is there


class OtherState(Exception):
    """From token to token a model keeps something else than keys and values, a row for each token."""


class Planned(Exception):
    """A dry run needs no more of the text."""


class _NoProgress:
    """Stands for ComfyUI's progress bar in a dry run."""

    def __init__(self, _total: int) -> None:
        pass

    def update(self, _value: int) -> None:
        """Nobody looks on."""


# Core's loop in a dry run: tqdm writes to the log, and has a lock that a full disk can leave held.
_SILENT = {"tqdm.tqdm": lambda steps, **_: steps, "comfy.utils.ProgressBar": _NoProgress}


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


class Head(torch.nn.Module):
    """Makes logits of hidden states, by core's own method."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.config = core.model.config
        name = head_layer(core)
        setattr(self.model, name, getattr(core.model, name))
        self._logits = type(core).logits

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, tokens, channels]. Returns the logits of the last token, [batch, 1, words]."""
        logits: Tensor = self._logits(self, x)
        return logits


def head_layer(core: Any) -> str:
    """The name of the layer whose weight makes logits."""
    return next(name for name in _HEADS if getattr(core.model, name, None) is not None)


def head_weight(core: Any) -> str | None:
    """The name of the weight that makes logits; None where core has the model write no text."""
    return f"model.{head_layer(core)}.weight" if hasattr(core, "generate") else None


class HeadComponent(Component):
    """The head of a model, which is loaded once it writes."""

    tokens = 1


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
class _Layers:
    """The caches that core makes: shapes of a layer's keys and values for one row, and how far each layer looks back.

    windows: the most tokens, with the newest; None: all.
    """

    shapes: tuple[tuple[int, ...], ...]
    windows: tuple[int | None, ...]


@torch.inference_mode(False)
@torch.no_grad()
@_disable_current_modes()  # a plan's guard of sizes would count tensors without values
def _layers(core: Any, batch: int, width: int) -> _Layers | None:
    """The caches of core's model; None where they are no keys and values, a row for each token."""
    made = core.init_kv_cache(batch, _ANY_ROWS, torch.device("meta"), torch.float32)
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
    return _Layers(shapes, tuple(windows))


@dataclass
class _Cache:
    """Keys and values of the tokens so far, as the program has them.

    limit: tokens of the longest text. rows: of layers that look back at all of it. A layer with a window has as many as
    it looks back, filled in turn, and a first one besides, of which core takes no notice. So that one mask fits all
    layers, tokens fill the last rows first where there is a window.
    """

    layers: _Layers
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

    def mask(self, tokens: int) -> Tensor:
        """1 for the rows that so many tokens have filled, 0 for the others; [1, rows]."""
        mask = torch.zeros((1, self.rows), dtype=torch.int64)
        for start, count in ((0, tokens),) if self.window is None else (
            (self.rows - self.window, min(tokens, self.window)), (0, max(0, tokens - self.window)),
        ):  # fmt: skip
            mask[:, start : start + count] = 1
        return mask

    def put(self, layer: int, tokens: Sequence[int], *new: Tensor) -> None:
        """Write the keys and values of tokens, [batch, heads, tokens, channels]; those out of sight are left out."""
        rows = self.rows_of(layer)
        seen = [at for at, token in enumerate(tokens) if rows == self.rows or token >= tokens[-1] + 1 - (rows - 1)]
        places = [self.place(tokens[at], rows) for at in seen]
        for name, x in zip(_names(layer), new, strict=True):
            self.kept[name][:, :, places] = x[:, :, seen]

    def read(self, layer: int) -> tuple[range, tuple[Tensor, ...]]:
        """The tokens whose keys and values a layer still has, and these in their order."""
        rows = self.rows_of(layer)
        tokens = range(max(0, self.tokens - (rows if rows == self.rows else rows - 1)), self.tokens)
        places = [self.place(token, rows) for token in tokens]
        return tokens, tuple(self.kept[name][:, :, places] for name in _names(layer))

    def reserve(self, tokens: int, empty: Callable[[tuple[int, ...]], Tensor]) -> None:
        """Have room for so many tokens; empty: makes what is written into."""
        if tokens <= self.rows:
            return
        held = [self.read(layer) for layer in range(len(self.layers.shapes))] if self.rows else []
        longest = -(-self.limit // _LEAST_ROWS) * _LEAST_ROWS
        while self.rows < tokens:
            self.rows = min(max(_LEAST_ROWS, 2 * self.rows), longest)
        for layer, (batch, heads, _, channels) in enumerate(self.layers.shapes):
            for name in _names(layer):
                self.kept[name] = empty((batch, heads, self.rows_of(layer), channels))
        for layer, (before, values) in enumerate(held):
            self.put(layer, before, *values)
        self.series, self.turn = uuid4().hex, 0


def _names(layer: int) -> tuple[str, str]:
    return f"keys.{layer}", f"values.{layer}"


class _Model:
    """Stands for the `model` of core's class in its loop."""

    def __init__(self, encoder: Any, head: HeadComponent, cache: _Cache) -> None:
        self.config = encoder.engine_model.module.model.config
        self.embed_tokens = encoder.get_input_embeddings()
        self._encoder, self._head, self._cache = encoder, head, cache

    def forward(
        self, _ids: Any, embeds: Tensor, past_key_values: Any, position_ids: Tensor | None = None, **more: Any
    ) -> Any:
        """The logits after the newest token in place of its hidden state, None, and the cache."""
        if self._cache.tokens == 0:
            hidden = self._prompt({"embeds": embeds, "position_ids": position_ids, **more})
        else:
            hidden = self._token(embeds, position_ids)
        return self._logits(hidden), None, past_key_values

    def _logits(self, hidden: Tensor) -> Tensor:
        (logits,) = self._head.compute("logits", lambda head, given: (head(given["x"]),), {"x": hidden})
        return logits

    def _prompt(self, arguments: dict[str, Any]) -> Tensor:
        tensors: dict[str, Tensor] = {}
        structure = part(arguments, "", tensors)

        def function(core: Any, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
            with own_attention():
                x, _, made = core.model.forward(None, past_key_values=[], **join(structure, given))
            return x[:, -1:], *(y for each in made for y in each[:2])

        hidden, *made = self._encoder.compute(("prompt", structure), function, tensors)
        cache, tokens = self._cache, arguments["embeds"].shape[1]
        if self._encoder.host.plans:
            cache.tokens = tokens
            return hidden
        cache.reserve(tokens, torch.zeros)
        for layer in range(len(cache.layers.shapes)):
            cache.put(layer, range(tokens), *made[2 * layer : 2 * layer + 2])
        cache.tokens = tokens
        return hidden

    def _token(self, embeds: Tensor, position_ids: Tensor | None) -> Tensor:
        cache, host = self._cache, self._encoder.host
        token = cache.tokens
        with host.alike(cache.limit - token) as counts_for_all:
            if counts_for_all:
                cache.reserve(cache.limit, unwritten_zeros)
            cache.reserve(token + 1, torch.zeros)
            cache.turn += 1
            places = {rows: cache.place(token, rows) for rows in map(cache.rows_of, range(len(cache.layers.shapes)))}
            inputs = {
                "embeds": embeds,
                "positions": torch.tensor([[token]]) if position_ids is None else position_ids,
                "mask": cache.mask(token + 1),
                **{f"place.{rows}": torch.tensor([place]) for rows, place in places.items()},
                **cache.kept,
            }
            turn = Turn(cache.series, cache.turn)
            hidden, *made = self._encoder.compute("token", _next_token, inputs, turn)
            if counts_for_all:
                self._logits(hidden)
                raise Planned
        cache.tokens += 1
        for layer in range(len(cache.layers.shapes)):
            cache.put(layer, [token], *made[2 * layer : 2 * layer + 2])
        return hidden


def _next_token(core: Any, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The hidden state of one token more, and its keys and values of each layer."""
    past = []
    for layer in range(sum(name.startswith("keys.") for name in given)):
        keys, values = (given[name] for name in _names(layer))
        number = given[f"place.{keys.shape[2]}"]
        past.append((Rows(keys, number), Rows(values, number), keys.shape[2] - 1))
    with own_attention():
        x = core.model.forward(
            None, embeds=given["embeds"], attention_mask=given["mask"], position_ids=given["positions"],
            past_key_values=past,
        )[0]  # fmt: skip
    return x, *(rows.written for keys, values, _ in past for rows in (keys, values))


def generate(encoder: Any, head: HeadComponent, embeds: Tensor, args: Any, kwargs: Any) -> list[int]:
    """The ids of the tokens that core's loop writes after a prompt, embeds [1, tokens, channels].

    args, kwargs: the others of core's `generate`. Raises OtherState.
    """
    core = encoder.engine_model.module
    embeds = embeds[None] if embeds.ndim == 2 else embeds
    layers = _layers(core, embeds.shape[0], embeds.shape[-1])
    if layers is None:
        raise OtherState
    bound = inspect.signature(core.generate).bind(embeds, *args, **kwargs)
    bound.apply_defaults()
    cache = _Cache(layers, embeds.shape[1] + int(bound.arguments["max_length"]) - 1)
    model = _Model(encoder, head, cache)
    loop = type(core).generate
    if encoder.host.plans:
        loop = with_names(loop, _SILENT)

    class Writer(type(core)):  # type: ignore[misc]
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.model = model

        def logits(self, x: Tensor) -> Tensor:
            return x

        def init_kv_cache(self, *_: Any, **__: Any) -> _Cache:
            return cache

    try:
        written: list[int] = loop(Writer(), embeds, *args, **kwargs)
        return written
    except Planned:
        return []
    finally:
        for each in (encoder, head):
            each.loaded.release()
