"""The transformer inside any text encoder of core's; tokens, weights of words and choice of layers stay core's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import ref

import torch
from comfy.clip_model import CLIPTextModel
from comfy.sd1_clip import SDClipModel
from torch import Tensor
from torch.func import functional_call

from ...native.engines.model import Patches
from ...native.engines.torch_cpu.weight_reader import array_values
from ...native.placement import Placement
from ...native.weights import Array, Parameter, WeightSet, content, read_parameter, read_rows
from .core_module import CoreModule
from .text_generation import Head, HeadComponent, OtherState, forward, generate, head_weight
from .text_writer import TextWriter
from .traced_module import TracedModule
from .weight_patches import Patch, values_of

_PROJECTION = "text_projection.weight"


class TokenEmbedding:
    """Looks tokens up in the weight file: a prompt needs a few hundred rows of tens of thousands."""

    def __init__(self, layer: torch.nn.Module, table: Callable[[], Parameter | Array]) -> None:
        """layer: core's, which may scale what it looks up. table: the rows, of a file or in memory."""
        self.table = table
        self.weight = torch.empty(0)  # ComfyUI asks for its device
        self._layer = layer

    def __call__(self, tokens: Tensor, out_dtype: torch.dtype = torch.float32) -> Tensor:
        """tokens: [batch, tokens]. Returns [batch, tokens, channels]."""
        wanted = tokens.flatten().cpu().numpy()
        table = self.table()
        if isinstance(table, Parameter):
            rows = torch.from_numpy(read_rows(table, wanted))
        else:
            rows = array_values(content(table)[wanted]).float()
        numbers = torch.arange(len(rows)).view(tokens.shape)
        return functional_call(self._layer, {"weight": rows}, numbers).to(tokens.device, out_dtype)


class EncoderModule(TracedModule):
    """Takes the place of `transformer` in comfy.sd1_clip.SDClipModel and its kin, and of layers beside one."""

    input_words: Mapping[str, str] = {"embeds": "What the prompt's words or embeddings stand for"}

    def __init__(self, core: Any, weights: WeightSet, placement: Placement, looks_up: bool = True) -> None:
        """core: the transformer on the meta device. looks_up: tokens are looked up in the file, outside of it."""
        layer = core.get_input_embeddings() if hasattr(core, "get_input_embeddings") else None
        names = [f"{name}.weight" for name, part in core.named_modules() if part is layer]
        head = head_weight(core) if looks_up else None
        local = [name for name in dict.fromkeys((*names, _PROJECTION, head)) if name in weights.shapes()]
        super().__init__(core, weights, placement, local if looks_up else (), f16_overflow=True)
        self._head_weight = head
        self._heads: list[HeadComponent] = []  # none until the model writes; in a list, as it is none of its parts
        self._weights = weights
        self._writing: tuple[Mapping[str, tuple[str, Sequence[Patch]]], float] = ({}, 1.0)
        self._writer: TextWriter | None = None
        self._local = {name: weights.parameters[name] for name in local if name in weights.parameters}
        transposed = weights.arrays.get(_PROJECTION)
        self._transposed = None if transposed is None else content(transposed)  # as files in open_clip's names have it
        here = ref(self)  # no circle, so that a dropped encoder leaves memory at once
        self._embedding: TokenEmbedding | None = None
        if layer is not None and looks_up:
            stored: Parameter | Array = self._local[names[0]] if names[0] in self._local else weights.arrays[names[0]]
            self._embedding = TokenEmbedding(layer, lambda: here().local_patches.get(names[0], stored))  # type: ignore[union-attr]

    def get_input_embeddings(self) -> TokenEmbedding | None:
        """The lookup of tokens; None where the module looks them up itself, or has none."""
        return self._embedding

    def call(self, name: str, args: Any, kwargs: Any) -> Any:
        """As TracedModule; a prompt is encoded once, and what only that needs is given back."""
        results = super().call(name, args, kwargs)
        self.loaded.release()
        return results

    def _method(self, name: str) -> Callable[..., Any]:
        """A method of core's whose code names no layer computes with what it is given alone, and is core's own."""
        core = self.engine_model.module
        method: Callable[..., Any] = getattr(core, name)
        layers = {child for child, _ in core.named_children()}
        return super()._method(name) if layers & set(method.__code__.co_names) else method

    def forward(self, *args: Any, num_tokens: Any = None, **kwargs: Any) -> Any:
        """As core's. num_tokens: of no effect outside CLIP."""
        if kwargs.get("past_key_values") is None:
            return self.call("forward", args, kwargs)
        try:  # of a node that writes text itself
            result = forward(self, args, kwargs)
            self.loaded.is_kept_ready = True
            return result
        except OtherState:
            return self._written("forward", args, kwargs)

    def generate(self, embeds: Tensor, *args: Any, **kwargs: Any) -> list[int]:
        """As core's, whose loop and sampling it has; torch writes where a model keeps more than keys and values.

        Raises NotImplementedError for a model that writes no text.
        """
        if not hasattr(self.engine_model.module, "generate"):
            raise self._cannot_write()
        try:
            return generate(self, self._loaded_head(), embeds, args, kwargs)
        except OtherState:
            written: list[int] = self._written("generate", (embeds, *args), kwargs)
            return written

    def logits(self, x: Tensor) -> Tensor:
        """As core's, for a node that writes text itself: of the last token. x: [batch, tokens, channels]."""
        head = self._loaded_head()
        head.loaded.is_kept_ready = True
        return head.logits(x).to(x)

    def _loaded_head(self) -> HeadComponent:
        """The head, with the weight that prompts are looked up in, or that only writing needs."""
        name, core = self._head_weight, self.engine_model.module
        if name is None or name not in self.local_weights.shapes():
            raise self._cannot_write()
        if not self._heads:
            weights = self.local_weights.only({name})
            made = HeadComponent(Head(core), weights, self.engine_model.placement, f16_overflow=True)
            self._heads.append(made)
            self.loaded.beside = made.loaded
        (head,) = self._heads
        patches = {key: each for key, each in self.local_patches.items() if key == name}
        head.loaded.set_patches(Patches(weights=patches))
        head.loaded.component = self.loaded.component
        return head

    def _cannot_write(self) -> NotImplementedError:
        return NotImplementedError(
            f"The {self.engine_model.weights.name} cannot write text, only encode prompts: choose a model that can."
        )

    def set_patches(self, named: Mapping[str, tuple[str, Sequence[Patch]]], widened: float) -> None:
        """As Component."""
        super().set_patches(named, widened)
        self._writing, self._writer = (named, widened), None

    def _written(self, name: str, args: Any, kwargs: Any) -> Any:
        if self._writer is None:
            self._writer = TextWriter(self.engine_model.module, self._weights, *self._writing)
        return self._writer.call(self.host, name, args, kwargs)


class PooledEncoder(EncoderModule):
    """Stands for comfy.clip_model.CLIPTextModel, whose pooled state is taken outside: its place is that of a token."""

    def forward(self, *args: Any, num_tokens: Any = None, **kwargs: Any) -> Any:
        """As core's: two hidden states [batch, tokens, channels]; the pooled one, projected and not [batch, channels].

        Pooled is the state at the last of `num_tokens` tokens. A file without a projection means the identity.
        """
        kwargs |= {"embeds_info": [], "num_tokens": [1] * len(num_tokens)}
        x, intermediate, _ = self.call("text_model.forward", args, kwargs)
        pooled = x[torch.arange(x.shape[0]), torch.tensor(num_tokens) - 1]
        projected = pooled if self._projection is None else pooled @ self._projection.T.to(pooled)
        return x, intermediate, projected, pooled

    @property
    def _projection(self) -> Tensor | None:
        if _PROJECTION in self.local_patches:
            return values_of(self.local_patches[_PROJECTION])
        return self._projection_of_file

    @cached_property
    def _projection_of_file(self) -> Tensor | None:
        parameter = self._local.get(_PROJECTION)
        if self._transposed is not None:
            return torch.from_numpy(self._transposed)
        return None if parameter is None else torch.from_numpy(read_parameter(parameter))


def encoder(
    core: torch.nn.Module, weights: WeightSet, placement: Placement, owner: torch.nn.Module | None = None
) -> TracedModule:
    """The component for a transformer, or for what computes beside one, such as LTX-2's projection of its states.

    owner: core's module that calls it; one of its own kind gives it tokens.
    """
    if not hasattr(core, "get_input_embeddings"):
        return CoreModule(core, weights, placement)
    kind = PooledEncoder if isinstance(core, CLIPTextModel) else EncoderModule
    return kind(core, weights, placement, owner is None or isinstance(owner, SDClipModel))
