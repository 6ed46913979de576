"""Text written token by token, as each token hangs on those before it: torch computes it, on the processor."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...native.engines.dry_run import unwritten_zeros
from ...native.engines.torch_cpu import TorchModel
from ...native.placement import CPU, TORCH, Placement
from ...native.weights import WeightSet
from .host import Host
from .lora import patches_of
from .weight_patches import Patch

log = logging.getLogger(__name__)


class TextWriter:
    """A language model whose methods torch computes as they are, loops and caches included."""

    def __init__(
        self, core: torch.nn.Module, weights: WeightSet,
        named: Mapping[str, tuple[str, Sequence[Patch]]], widened: float,
    ) -> None:  # fmt: skip
        """core: on the meta device. weights: all of them. named, widened: as for lora.patches_of."""
        self._core = core
        # In F32: a rounded product would choose other words.
        self._model = TorchModel(core, weights, Placement(CPU, engine=TORCH), half=False)
        self._model.set_patches(patches_of(named, core, weights, widened))
        self._said = False

    def call(self, host: Host, name: str, args: Any, kwargs: Any) -> Any:
        """The result of a method of core's: of `generate`, or of a forward with a cache of keys and values."""
        if host.plans:
            return self._imagined(name, args, kwargs)
        if not self._said:
            log.info("%s writes text on the processor, by torch, whatever its device.", self._model.weights.name)
            self._said = True
        found: list[Any] = []

        def compute(core: Any, _: Any) -> tuple[()]:
            found.append(getattr(core, name)(*args, **kwargs))
            return ()

        with host.engine_call(self._model):
            self._model.run(name, compute, {}, host.is_interrupted)
        return found[0]

    def _imagined(self, name: str, args: Any, kwargs: Any) -> Any:
        """No text, or zeros in the place of states and the cache as it was."""
        if name == "generate":
            return []
        return unwritten_zeros(kwargs["embeds"].shape), None, kwargs["past_key_values"]
