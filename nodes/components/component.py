"""Component: takes the place of a torch module with weights in ComfyUI's models, and computes by an engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import ref

import comfy.ops
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor

from ...native.engines.model import Model
from ...native.errors import NotFinite
from ...native.lower import LowerOptions
from ...native.placement import CPU, Placement
from ...native.trace import known_value, untraced
from ...native.weights import Array, WeightSet
from ...native.wire.turn import NO_TURN, Turn
from .host import current_host
from .lifetime import LoadedWeights
from .lora import check, patches_of
from .not_finite import explained
from .recording import PADDING
from .weight_patches import Patch, patched

F16_OVERFLOW_SCALE = 64.0  # brings activations of 4 million within F16 and leaves those of 0.004 their full precision
Function = Callable[[torch.nn.Module, dict[str, Tensor]], Tensor | tuple[Tensor, ...]]


def _without_values(layer: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The layer with its parameters on the meta device from the start; under dynamic VRAM core's has none yet."""

    class OnMeta(layer):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, device: Any = None, **kwargs: Any) -> None:
            super().__init__(*args, device="meta", **kwargs)

        def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
            held = state_dict.get(f"{prefix}weight")
            if held is not None and (padding := getattr(held, PADDING, 0)):
                shape = tuple(self.weight.shape)
                if tuple(held.shape) == tuple(-(-size // padding) * padding for size in shape):
                    state_dict[f"{prefix}weight"] = held[tuple(slice(size) for size in shape)]
            torch.nn.Module._load_from_state_dict(self, state_dict, prefix, *args)

    OnMeta.__name__ = layer.__name__
    return OnMeta


class MetaOperations(comfy.ops.disable_weight_init):
    """Core's layers without memory for their weights, which the engine reads from the file."""


for _name, _layer in list(vars(comfy.ops.disable_weight_init).items()):
    if isinstance(_layer, type) and issubclass(_layer, torch.nn.Module):
        setattr(MetaOperations, _name, _without_values(_layer))


def _experts_without_values(layer: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """Core's experts of a mixture, which have a weight only once a file is loaded, with one on the meta device."""

    class OnMeta(layer):  # type: ignore[misc, valid-type]
        _load_from_state_dict = torch.nn.Module._load_from_state_dict
        state_dict = torch.nn.Module.state_dict
        _apply = torch.nn.Module._apply

        def __init__(self, *args: Any, device: Any = None, **kwargs: Any) -> None:
            super().__init__(*args, device="meta", **kwargs)
            self.weight = torch.nn.Parameter(torch.empty(self._orig_shape, device="meta"))

    OnMeta.__name__ = layer.__name__
    return OnMeta


_mixed = getattr(comfy.ops, "mixed_precision_ops", None)  # older ComfyUIs have neither it nor experts
_experts = getattr(_mixed({}, torch.float32), "MoEExperts", None) if _mixed else None
if _experts is not None:
    MetaOperations.MoEExperts = _experts_without_values(_experts)


def layers_elsewhere(does: str) -> NotImplementedError:
    """The error for a node that needs a layer of a model; does: what it does with it."""
    return NotImplementedError(
        f"A node in this workflow {does}, as the bypass LoRA loaders do. The layers of a GGML model are in another "
        "process: for a LoRA use Load LoRA instead, else remove that node or load the model with ComfyUI's own loader."
    )


class Component(torch.nn.Module):
    """A module's names and shapes, for ComfyUI to see; its weights and arithmetic are its engine's."""

    tokens = 256  # that it usually gets at once: those of a prompt
    input_words: Mapping[str, str] = {}  # what inputs are to the user, by their names, to begin a sentence with
    oom_retryable = True  # whether the host may try something else where memory runs out

    def __init__(
        self, core: torch.nn.Module, weights: WeightSet, placement: Placement, local: Collection[str] = (),
        f16_overflow: bool = False,
    ) -> None:  # fmt: skip
        """core: the module that ComfyUI would run, on the meta device.

        local: parameters that this process reads from the file itself and the engine need not hold.
        f16_overflow: the module's activations pass 65504, the largest number of F16, as T5's and the VAE's do.
        Raises WeightFileError when the weights do not fit the module.
        """
        super().__init__()
        self._names = {
            name: tensor
            for name, tensor in core.eval().requires_grad_(False).state_dict().items()
            if tensor.is_floating_point() and tensor.numel()  # no counts, and no marks of a variant
        }
        weights.require({name: tuple(tensor.shape) for name, tensor in self._names.items()})
        held = {name: found for name, found in weights.parameters.items() if name in self._names and name not in local}
        arrays = {name: array for name, array in weights.arrays.items() if name not in local}
        self.local_weights = weights.only(local)
        self.taken: Mapping[str, Array] = {}  # weights of another component's layer, by parameter of this one
        self.local_patches: Mapping[str, Array] = {}  # in the place of those that this process reads itself
        self.dtype = torch.float32
        # The CPU's kernel is faster on F32 than on what it would have to convert; on a GPU half the bytes count.
        kv_type = "F32" if placement.device == CPU else "F16"
        options = LowerOptions(activation_scale=F16_OVERFLOW_SCALE if f16_overflow else 1.0, kv_type=kv_type)
        self.host = current_host()
        held_weights = replace(weights, parameters=held, arrays=arrays)
        self.engine_model = self.host.model_for(core, held_weights, placement, options, self.tokens)
        self.loaded = LoadedWeights(self.engine_model, self, self.host.lifetimes)
        self._joined: Sequence[Component] = ()
        self._joined_to: Callable[[], Component | None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        """As torch.nn.Module's; raises NotImplementedError for the layers that ComfyUI's own module would have.

        Not AttributeError, which core's bypass LoRA loaders (comfy/weight_adapter/bypass.py) log and pass over.
        """
        engine_model = self.__dict__.get("engine_model")
        if engine_model is not None and isinstance(getattr(engine_model.module, name, None), torch.nn.Module):
            raise layers_elsewhere(f"reaches into the model for its layer {name}")
        return super().__getattr__(name)

    @property
    def nbytes(self) -> int:
        """Bytes of the loaded weights."""
        weights = self.engine_model.file_weights
        arrays = sum(array.nbytes for array in weights.arrays.values())
        return arrays + sum(parameter.weight_bytes for parameter in weights.parameters.values())

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The parameters' names, with tensors on the meta device: what LoRA and merging nodes look for."""
        destination = {} if destination is None else destination
        destination.update({prefix + name: tensor for name, tensor in self._names.items()})
        return destination

    def load(self) -> None:
        """Bring the weights to the device, with progress at the node; interruptible."""
        with self.host.engine_call(self.engine_model):
            self.loaded.load(self.host.progress(), self.host.is_interrupted)

    @property
    def joined_to(self) -> Component | None:
        """The component whose programs compute this one, with a copy of its weights."""
        return self._joined_to()

    def join(self, others: Sequence[Component]) -> None:
        """Compute other components in the programs of this one, those that are placed alike, and no others."""
        model = self.engine_model
        joined = [each for each in others if model.can_join and _placed_alike(each.engine_model, model)]
        for each in self._joined:
            each._joined_to = lambda: None
        for each in joined:
            each._joined_to = ref(self)
            if each.loaded.is_loaded:
                each.loaded.unload()
        self._joined = joined
        self.loaded.join([each.engine_model for each in joined])

    def set_patches(self, named: Mapping[str, tuple[str, Sequence[Patch]]], widened: float) -> None:
        """Change the weights so, instead of as before; named, widened: as for lora.patches_of. Raises LoRAError."""
        shapes = self.local_weights.shapes()
        here = {name: found for name, found in named.items() if name in shapes}
        held = {name: found for name, found in named.items() if name not in here}
        patches = patches_of(held, self.engine_model.module, self.engine_model.file_weights, widened)
        self.loaded.set_patches(replace(patches, weights={**self.taken, **patches.weights}))
        self.local_patches = {
            name: patched(self.local_weights, name, key, patches) for name, (key, patches) in here.items() if patches
        }

    def check_patch(self, key: str, name: str, patch: Patch, widened: float) -> None:
        """Raise LoRAError unless the parameter `name` can take a patch; key, widened: as for lora.check."""
        held, local = self.engine_model.file_weights.shapes(), self.local_weights.shapes()
        shape, _ = held[name] if name in held else local[name]
        check(key, patch, self.engine_model.module, name, torch.Size(shape), widened)

    def compute(
        self, key: Hashable, function: Function, inputs: dict[str, Tensor], turn: Turn = NO_TURN
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Run `function(module, inputs)` in its engine, until the host is interrupted.

        key: every value besides the inputs that steers what the function does. inputs: on any device; floats go in and
        come out as float32. turn: as for Model.run. Raises what the host knows as out of memory when the device has
        none left; and, for a function that has it computed within a trace of another model, what makes the trace ask
        for values, unless the inputs are known there.
        """
        if any(isinstance(x, FakeTensor) for x in inputs.values()):
            values = {name: known_value(x) if isinstance(x, FakeTensor) else x for name, x in inputs.items()}
            known = {name: x for name, x in values.items() if x is not None}
            if len(known) < len(inputs):
                raise DataDependentOutputException(torch.ops.aten._local_scalar_dense.default)
            return untraced(lambda: self.compute(key, function, known, turn))
        self._make_ready()
        with self.host.engine_call(self.engine_model, self.oom_retryable):
            try:
                return self.engine_model.run(key, function, inputs, interrupted=self.host.is_interrupted, turn=turn)
            except NotFinite as error:
                raise explained(error, self.engine_model.weights, inputs, self.input_words) from error

    def fits(self, key: Hashable, function: Function, inputs: dict[str, Tensor]) -> bool:
        """Whether the device has room for `compute` beside the weights, and can do each of its operations.

        Nothing is computed. Raises what `load` does.
        """
        self._make_ready()
        return self.engine_model.fits(key, function, inputs)

    def _make_ready(self) -> None:
        """Load the weights where they are not, as after a phase of residency "disk"; unload what is to give way."""
        self.host.raise_if_interrupted()
        if not self.loaded.is_loaded:
            self.load()
        self.loaded.begin_phase()
        self.host.lifetimes.unload_orphans(self.loaded)


def _placed_alike(one: Model, other: Model) -> bool:
    places = [(each.placement.device, each.placement.residency, each.placement.budget) for each in (one, other)]
    return places[0] == places[1]


def components_of(model: torch.nn.Module) -> Iterator[tuple[str, Component]]:
    """Every component of a model, with the prefix its parameters have in the model's state dict."""
    for name, module in model.named_modules():
        if isinstance(module, Component):
            yield f"{name}." if name else "", module
