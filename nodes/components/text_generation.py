"""Text that a text encoder of core's writes: the loop and the sampling are core's, each forward is the engine's.

A prompt is one program, with keys and values among its results. Every later token is the same program of another: keys
and values are inputs of a fixed number of rows, which it writes into, so that they stay on the device from token to
token. The loop is that of core's class of language models, or a node's own, which asks for one forward after another.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...native.engines.dry_run import unwritten_zeros
from ...native.wire.turn import Turn
from .attention_override import own_attention
from .call_arguments import join, part
from .component import Component
from .core_function import with_names
from .text_cache import Cache, Rows, layers_of, names_of

_HEADS = ("lm_head", "embed_tokens")  # core's layers whose weight makes logits, the first of them that is there
_OF_NO_EFFECT = frozenset({"dtype", "final_layer_norm_intermediate"})  # on a forward that gives the last state alone


class OtherState(Exception):
    """From token to token a model keeps something else than keys and values, a row for each token."""


class Planned(Exception):
    """A dry run needs no more of the text."""


class NoProgress:
    """Stands for ComfyUI's progress bar in a dry run."""

    def __init__(self, _total: int) -> None:
        pass

    def update(self, _value: int) -> None:
        """Nobody looks on."""

    update_absolute = update


# Core's loop in a dry run: tqdm writes to the log, and has a lock that a full disk can leave held.
_SILENT = {"tqdm.tqdm": lambda steps, **_: steps, "comfy.utils.ProgressBar": NoProgress}


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
    """The name of the weight that makes logits; None where core has the model make none."""
    return f"model.{head_layer(core)}.weight" if hasattr(core, "logits") else None


class HeadComponent(Component):
    """The head of a model, which is loaded once it writes."""

    tokens = 1

    def logits(self, x: Tensor) -> Tensor:
        """Those of the last token, [batch, 1, words]; x: hidden states, [batch, tokens, channels]."""
        (scores,) = self.compute("logits", lambda head, given: (head(given["x"]),), {"x": x[:, -1:]})
        return scores


@dataclass
class _Text:
    """A text that is being written, or several of the same length."""

    encoder: Any
    cache: Cache

    def prompt(self, arguments: dict[str, Any]) -> Tensor:
        """The hidden states of a prompt, [batch, tokens, channels]; arguments: of core's forward."""
        tensors: dict[str, Tensor] = {}
        structure = part(arguments, "", tensors)

        def function(core: Any, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
            with own_attention():
                x, _, made = core.model.forward(None, past_key_values=[], **join(structure, given))
            return x, *(y for each in made for y in each[:2])

        hidden, *made = self.encoder.compute(("prompt", structure), function, tensors)
        cache, tokens = self.cache, arguments["embeds"].shape[1]
        if not self.encoder.host.plans:
            cache.reserve(tokens, torch.zeros)
            for layer in range(len(cache.layers.shapes)):
                cache.put(layer, range(tokens), *made[2 * layer : 2 * layer + 2])
        cache.tokens = tokens
        return hidden

    def token(self, embeds: Tensor, position_ids: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """The hidden state of the next token, [batch, 1, channels]; seen: as for Cache.mask, None: all count.

        In a dry run there is room for the longest text already.
        """
        cache, token = self.cache, self.cache.tokens
        if self.encoder.host.plans:
            cache.reserve(cache.limit, unwritten_zeros)
        cache.reserve(token + 1, torch.zeros)
        cache.turn += 1
        places = {rows: cache.place(token, rows) for rows in map(cache.rows_of, range(len(cache.layers.shapes)))}
        inputs = {
            "embeds": embeds,
            "positions": torch.tensor([[token]]) if position_ids is None else position_ids,
            "mask": cache.mask(torch.ones((1, token + 1), dtype=torch.int64) if seen is None else seen),
            **{f"place.{rows}": torch.tensor([place]) for rows, place in places.items()},
            **cache.kept,
        }
        hidden, *made = self.encoder.compute("token", _next_token, inputs, Turn(cache.series, cache.turn))
        cache.tokens += 1
        if not self.encoder.host.plans:
            for layer in range(len(cache.layers.shapes)):
                cache.put(layer, [token], *made[2 * layer : 2 * layer + 2])
        state: Tensor = hidden
        return state


class _Model:
    """Stands for the `model` of core's class in its loop."""

    def __init__(self, text: _Text, head: HeadComponent) -> None:
        self.config = text.encoder.engine_model.module.model.config
        self.embed_tokens = text.encoder.get_input_embeddings()
        self._text, self._head = text, head

    def forward(
        self, _ids: Any, embeds: Tensor, past_key_values: Any, position_ids: Tensor | None = None, **more: Any
    ) -> Any:
        """The logits after the newest token in place of its hidden state, None, and the cache."""
        text, cache = self._text, self._text.cache
        if cache.tokens == 0:
            hidden = text.prompt({"embeds": embeds, "position_ids": position_ids, **more})
            return self._head.logits(hidden), None, past_key_values
        with text.encoder.host.alike(cache.limit - cache.tokens) as counts_for_all:
            logits = self._head.logits(text.token(embeds, position_ids))
        if counts_for_all:
            raise Planned
        return logits, None, past_key_values


def _next_token(core: Any, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The hidden state of one token more, and its keys and values of each layer."""
    past = []
    for layer in range(sum(name.startswith("keys.") for name in given)):
        keys, values = (given[name] for name in names_of(layer))
        number = given[f"place.{keys.shape[2]}"]
        past.append((Rows(keys, number), Rows(values, number), keys.shape[2] - 1))
    with own_attention():
        x = core.model.forward(
            None, embeds=given["embeds"], attention_mask=given["mask"], position_ids=given["positions"],
            past_key_values=past,
        )[0]  # fmt: skip
    return x, *(rows.written for keys, values, _ in past for rows in (keys, values))


class Past(NamedTuple):
    """The text of a node's own loop, and its tokens so far: it gives them back for the next token."""

    text: _Text
    tokens: int


def forward(encoder: Any, args: Any, kwargs: Any) -> tuple[Tensor, None, Past]:
    """As core's forward with `past_key_values`, for a node's own loop.

    args, kwargs: of core's. The first time past_key_values are the node's own, empty and with room for the longest
    text. Raises OtherState, and for a forward of which more is asked than the last hidden states.
    """
    core = encoder.engine_model.module
    given = inspect.signature(core.model.forward).bind(*args, **kwargs).arguments
    embeds, past, seen = (given.pop(name, None) for name in ("embeds", "past_key_values", "attention_mask"))
    others = [value for name, value in given.items() if name not in _OF_NO_EFFECT]
    if embeds is None or any(isinstance(each, Tensor) or each not in (None, []) for each in others):
        raise OtherState
    if not isinstance(past, Past):
        text = _Text(encoder, _empty_cache(core, embeds, past))
        hidden = text.prompt({"embeds": embeds, "attention_mask": seen})
    else:
        text, cache = past.text, past.text.cache
        cache.tokens, cache.limit = past.tokens, max(cache.limit, past.tokens + 1)
        hidden = text.token(embeds, seen=seen)
    return hidden.to(embeds), None, Past(text, text.cache.tokens)


def _empty_cache(core: Any, embeds: Tensor, given: Sequence[Any]) -> Cache:
    """Ours in the place of a node's. Raises OtherState where that is not empty, or tokens look back at some others."""
    layers = layers_of(core, embeds.shape[0], embeds.shape[-1], given) if given else None
    if layers is None or any(layers.windows) or any(tokens for _, _, tokens in given):
        raise OtherState
    return Cache(layers, given[0][0].shape[2])


def generate(encoder: Any, head: HeadComponent, embeds: Tensor, args: Any, kwargs: Any) -> list[int]:
    """The ids of the tokens that core's loop writes after a prompt, embeds [1, tokens, channels].

    args, kwargs: the others of core's `generate`. Raises OtherState.
    """
    core = encoder.engine_model.module
    embeds = embeds[None] if embeds.ndim == 2 else embeds
    layers = layers_of(core, embeds.shape[0], embeds.shape[-1])
    if layers is None:
        raise OtherState
    bound = inspect.signature(core.generate).bind(embeds, *args, **kwargs)
    bound.apply_defaults()
    cache = Cache(layers, embeds.shape[1] + int(bound.arguments["max_length"]) - 1)
    model = _Model(_Text(encoder, cache), head)
    loop = type(core).generate
    if encoder.host.plans:
        loop = with_names(loop, _SILENT)

    class Writer(type(core)):  # type: ignore[misc]
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.model = model

        def logits(self, x: Tensor) -> Tensor:
            return x

        def init_kv_cache(self, *_: Any, **__: Any) -> Cache:
            return cache

    try:
        written: list[int] = loop(Writer(), embeds, *args, **kwargs)
        return written
    except Planned:
        return []
    finally:
        for each in (encoder, head):
            each.loaded.release()
