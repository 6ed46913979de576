"""The transformer inside a text encoder; tokens, the weights of words, masks and layer choice stay ComfyUI's own."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import Any

import torch
from comfy.clip_model import CLIPTextModel
from comfy.text_encoders.t5 import T5
from torch import Tensor

from ...native.placement import Placement
from ...native.weights import WeightSet, read_parameter
from .attention_override import own_attention
from .component import Component, MetaOperations
from .encoder import TokenEmbedding


class TextTransformer(Component):
    """Takes the place of SDClipModel's `transformer`."""

    embedding: str  # the parameter that holds the token embedding

    def __init__(
        self, core: torch.nn.Module, weights: WeightSet, placement: Placement, local: tuple[str, ...] = ()
    ) -> None:
        """core: comfy's transformer on the meta device."""
        super().__init__(core, weights, placement, (self.embedding, *local), f16_overflow=True)
        self.num_layers = core.num_layers
        self._embedding = TokenEmbedding(weights.parameters[self.embedding])

    def get_input_embeddings(self) -> TokenEmbedding:
        """The lookup of tokens."""
        return self._embedding

    def hidden(self, embeds: Tensor, mask: Tensor | None, **options: Any) -> tuple[Tensor, Tensor | None]:
        """The last hidden state and, where the options ask for one, an intermediate one: [batch, tokens, channels].

        embeds: [batch, tokens, channels]; mask: 1 for tokens to attend to, [batch, tokens]; options: of core's forward.
        """
        key: Hashable = tuple(sorted((name, repr(value)) for name, value in options.items()))

        def forward(core: torch.nn.Module, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
            with own_attention():
                x, intermediate = encode(core, tensors["embeds"], tensors.get("mask"), options)
            return (x,) if intermediate is None else (x, intermediate)

        inputs = {"embeds": embeds} if mask is None else {"embeds": embeds, "mask": mask}
        states = [x.to(embeds.device) for x in self.compute(key, forward, inputs)]
        return states[0], states[1] if len(states) > 1 else None


def encode(
    core: torch.nn.Module, embeds: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Core's forward without pooling, whose place hangs on the length of the prompt."""
    if isinstance(core, CLIPTextModel):
        first = [1] * embeds.shape[0]
        x, intermediate, _ = core.text_model(None, mask, embeds=embeds, num_tokens=first, **options)
        return x, intermediate
    return core(None, mask, embeds=embeds, **options)


class T5Transformer(TextTransformer):
    """Stands for comfy.text_encoders.t5.T5."""

    embedding = "shared.weight"

    def __init__(self, config: dict[str, Any], weights: WeightSet, placement: Placement) -> None:
        """config: as comfy/text_encoders/t5_config_xxl.json."""
        core = T5(config, torch.float32, "meta", MetaOperations)
        super().__init__(core, weights, placement)

    def forward(
        self,
        input_ids: None,
        attention_mask: Tensor | None,
        embeds: Tensor,
        num_tokens: list[int] | None = None,
        dtype: torch.dtype = torch.float32,
        embeds_info: Any = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As core's: the last hidden state and an intermediate one, [batch, tokens, channels]."""
        return self.hidden(embeds, attention_mask, **options)


class CLIPTransformer(TextTransformer):
    """Stands for comfy.clip_model.CLIPTextModel."""

    embedding = "text_model.embeddings.token_embedding.weight"
    projection = "text_projection.weight"

    def __init__(self, config: dict[str, Any], weights: WeightSet, placement: Placement) -> None:
        """config: as comfy/sd1_clip_config.json."""
        core = CLIPTextModel(config, torch.float32, "meta", MetaOperations)
        if self.projection not in weights.parameters:
            core.text_projection = torch.nn.Identity()
        super().__init__(core, weights, placement, (self.projection,))
        self._projection_parameter = weights.parameters.get(self.projection)

    @cached_property
    def _projection(self) -> Tensor | None:
        parameter = self._projection_parameter
        return None if parameter is None else torch.from_numpy(read_parameter(parameter))

    def forward(
        self,
        input_ids: None,
        attention_mask: Tensor | None,
        embeds: Tensor,
        num_tokens: list[int],
        dtype: torch.dtype = torch.float32,
        embeds_info: Any = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """As core's: two hidden states [batch, tokens, channels]; the pooled one, projected and not [batch, channels].

        Pooled is the state at the last of `num_tokens` tokens. A file without a projection means the identity.
        """
        x, intermediate = self.hidden(embeds, attention_mask, **options)
        pooled = x[torch.arange(x.shape[0]), torch.tensor(num_tokens) - 1]
        projected = pooled if self._projection is None else pooled @ self._projection.T.to(pooled)
        return x, intermediate, projected, pooled
