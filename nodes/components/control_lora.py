"""Control-LoRAs: a ControlNet with weights of the diffusion model, which the file replaces or adds products to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ...native.engines.torch_cpu.weight_reader import Values
from ...native.placement import Placement
from ...native.weights import Array, WeightFileError, WeightSet
from .build import parameters_without_values
from .component import Component, MetaOperations
from .core_module import CoreModule
from .host import current_host
from .memory_weights import as_array
from .patcher import ComponentPatcher
from .recording import Recording
from .weight_patches import Patch

_WHOLE, _PRODUCT = (".weight", ".bias"), (".up", ".down")
_HINT = "input_hint_block.0.weight"


@dataclass(eq=False)
class _Made:
    """The component that was made last, of what, and with which patches."""

    within: Callable[[], AbstractContextManager[None]]  # in which it is made, as in the turn of its loader
    patcher: ComponentPatcher | None = None
    of: tuple[str, str] = ("", "")  # the configuration and the file weights of the diffusion model
    patched: str = ""  # the weights of the diffusion model with its patches


class ControlLora(comfy.controlnet.ControlLora):
    """Core's, whose model is a component; it is made when sampling begins, and its copies keep it for the next time."""

    def __init__(
        self, tensors: Mapping[str, Tensor], file: WeightSet, placement: Placement, device: torch.device,
        made: _Made | None = None,
    ) -> None:  # fmt: skip
        """tensors: as core has them of the file, maybe without values. file: those that count.

        device: under which ComfyUI keeps account of the component.
        """
        super().__init__(dict(tensors))
        self.file = file
        self.control_model = self.manual_cast_dtype = None  # which core sets when sampling begins
        self._placement, self._device = placement, device
        self._made = made or _Made(current_host().maker())

    def copy(self) -> ControlLora:
        """As core's."""
        copied = ControlLora(self.control_weights, self.file, self._placement, self._device, self._made)
        self.copy_to(copied)
        return copied

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """As core's: the model is of the diffusion model's weights as they are now, with its LoRAs.

        Raises ValueError where the diffusion model is not one of this pack, and WeightFileError where it is of a kind
        that the file is not for.
        """
        comfy.controlnet.ControlNet.pre_run(self, model, percent_to_timestep_function)
        with _disable_current_modes():
            patcher = self._patcher(model)
        if patcher.model.host.plans:
            patcher.load()
        else:
            used = comfy.model_management.loaded_models(only_currently_used=True)
            comfy.model_management.load_models_gpu([*used, patcher])
        self.control_model = patcher.model

    def cleanup(self) -> None:
        """As core's, after sampling; the component ends its phase as others do."""
        if self._made.patcher is not None:
            self._made.patcher.cleanup()
        super().cleanup()

    def _patcher(self, model: Any) -> ComponentPatcher:
        """The component for this diffusion model, as it is now."""
        diffusion, made = model.diffusion_model, self._made
        if not isinstance(diffusion, Component):
            raise ValueError(
                f"The {self.file.name} is computed with weights of the diffusion model, which is not a GGML one here. "
                "Load it with GGML Diffusion Model or GGML Checkpoint, or both with ComfyUI's own loaders."
            )
        theirs, now = diffusion.engine_model.file_weights, diffusion.engine_model.weights.digest
        of = repr(sorted(model.model_config.unet_config.items())), theirs.digest
        if made.patcher is None or made.of != of:
            made.patcher = None  # what was made of another diffusion model makes room first
            made.patcher, made.of, made.patched = self._new(model.model_config.unet_config, theirs), of, ""
        if made.patched != now:
            made.patcher.patches = dict(self._patches(made.patcher.model, diffusion))
            made.patcher.patches_uuid = uuid4()
            made.patcher.check_patches()
            made.patched = now
        return made.patcher

    def _new(self, config: Mapping[str, Any], theirs: WeightSet) -> ComponentPatcher:
        """The component with a diffusion model's weights under the names that it has in common with it."""
        options = {**config, "dtype": torch.float32, "operations": MetaOperations}
        options.pop("out_channels", None)
        try:
            hint_channels = self.control_weights[_HINT].shape[1]
            with torch.inference_mode(False), torch.no_grad(), parameters_without_values():
                core = comfy.cldm.cldm.ControlNet(hint_channels=hint_channels, **options)
        except Exception as error:  # whatever core's code runs into where the model is no U-Net
            raise self._unfit(theirs, f"{type(error).__name__}: {error}") from error
        shapes = {name: tuple(x.shape) for name, x in core.state_dict().items()}
        own = self.file.only([name for name in self.file.shapes() if name.endswith(_WHOLE)])
        taken = theirs.only(shapes.keys() - own.shapes().keys())
        weights = replace(
            own,
            parameters=taken.parameters | own.parameters,
            arrays=taken.arrays | own.arrays,
            files=tuple(dict.fromkeys((*own.files, *taken.files))),
        )
        foreign = [name for name in self._products() if f"{name}.weight" not in shapes]
        foreign += own.shapes().keys() - shapes.keys()
        if foreign:
            raise self._unfit(theirs, f"it has {min(foreign)}")
        try:
            weights.require(shapes)
        except WeightFileError as error:
            raise self._unfit(theirs, str(error)) from error
        with torch.inference_mode(False), self._made.within():
            return ComponentPatcher(
                CoreModule(core, weights, self._placement, repeats=True), self._device, torch.device("cpu")
            )

    def _patches(self, module: Component, diffusion: Component) -> Iterator[tuple[str, list[Patch]]]:
        """The patches that the diffusion model has on weights taken from it, and the file's products."""
        own, products = self.file.shapes(), self._products()
        values = Values(self.file)
        try:
            for name in module.state_dict():
                patches = list(diffusion.patches[name][1]) if name in diffusion.patches and name not in own else []
                layer = name.removesuffix(".weight")
                if layer != name and layer in products:
                    up, down = (values.whole(layer + end).to(self.control_weights[layer + end].dtype)
                                for end in _PRODUCT)  # fmt: skip
                    patches.append((1.0, LoRAAdapter(set(), (up, down, None, None, None, None)), 1.0, None, None))
                if patches:
                    yield name, patches
        finally:
            values.close()

    def _products(self) -> set[str]:
        """The layers to whose weights the file adds a product."""
        return {name.rpartition(".")[0] for name in self.file.shapes() if name.endswith(_PRODUCT)}

    def _unfit(self, theirs: WeightSet, why: str) -> WeightFileError:
        return WeightFileError(
            f"The {self.file.name} does not fit the {theirs.name} ({why:.300}). Each is for one kind of diffusion "
            "model: use one that is made for this kind."
        )


def control_lora(
    value: comfy.controlnet.ControlLora, name: str, recording: Recording | None, placement: Placement,
    device: torch.device,
) -> ControlLora:  # fmt: skip
    """A Control-LoRA in the place of core's; device: as for ControlLora.

    name: of the file, for messages. recording: that its tensors were made under; None: they are in memory.
    Raises WeightFileError where the file lacks one of two matrices, or the layers for the hint.
    """
    held = {
        key: x for key, x in value.control_weights.items() if key.endswith((*_WHOLE, *_PRODUCT)) and "__" not in key
    }
    layers = {key.rpartition(".")[0] for key in held if key.endswith(_PRODUCT)}
    title = f"Control-LoRA {name}"
    missing = {_HINT, *(layer + end for layer in layers for end in _PRODUCT)} - held.keys()
    if missing:
        raise WeightFileError(
            f"The {title} lacks {min(missing)}. The file is incomplete or damaged: download it again."
        )
    parameters = {key: recording.parameter(key, x) for key, x in held.items()} if recording else {}
    arrays: dict[str, Array] = {
        key: as_array(title, key, recording.values(x) if recording else x)
        for key, x in held.items()
        if parameters.get(key) is None
    }
    files = recording.header.files if recording else ()
    found = {key: each for key, each in parameters.items() if each is not None}
    return ControlLora(value.control_weights, WeightSet(title, found, files, arrays), placement, device)
