"""ComfyUI's account of a model whose weights lie in the runner, and where its LoRAs reach it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import comfy.hooks
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch.utils._python_dispatch import _disable_current_modes

from . import lora
from .component import Component, components_of, layers_elsewhere
from .foreign_functions import functions_in, reads

_ANY = 1 << 62  # bytes
_COMPILED = "torch.compile"  # the key of core's wrapper (comfy_api/torch_helpers/torch_compile.py)


log = logging.getLogger(__name__)


class ComponentPatcher(ModelPatcher):
    """A ModelPatcher for models that hold Components.

    What ComfyUI would patch into weights becomes low-rank branches, or weights computed anew, handed over whenever this
    patcher is the one that is loaded; clones share the weights in the runner.
    """

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        """As ModelPatcher. What the model holds computes in one phase."""
        super().__init__(model, *args, **kwargs)
        for _, module in components_of(model):
            module.loaded.component = id(model)

    def model_size(self) -> int:
        """Bytes of the weights."""
        return sum(module.nbytes for _, module in components_of(self.model))

    def add_patches(self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0) -> Any:
        """As ModelPatcher; raises LoRAError on the node that adds what cannot be honoured."""
        added = super().add_patches(patches, strength_patch, strength_model)
        keys = {key if isinstance(key, str) else key[0] for key in added}
        self._check({key: self.patches[key] for key in keys})
        return added

    def add_hook_patches(self, hook: Any, patches: Any, strength_patch: Any = 1.0, strength_model: Any = 1.0) -> Any:
        """As ModelPatcher; raises LoRAError for what cannot be honoured."""
        added = super().add_hook_patches(hook, patches, strength_patch, strength_model)
        self._check(self.hook_patches[hook.hook_ref])
        return added

    def check_patches(self) -> None:
        """Raise LoRAError for a patch, taken over from another patcher, that cannot be honoured."""
        for patches in (self.patches, *self.hook_patches.values()):
            self._check(patches)

    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Any) -> None:
        """As ModelPatcher; what would compile the model is left out, as torch has no part in computing it."""
        if key != _COMPILED:
            super().add_wrapper_with_key(wrapper_type, key, wrapper)
            return
        log.info("A GGML model is not compiled by torch: the node that asks for it changes nothing.")

    def set_injections(self, key: str, injections: Any) -> None:
        """Raises NotImplementedError: what is injected works on the model's layers."""
        raise layers_elsewhere(f"puts code of its own into the model's layers ({key})")

    def load(
        self,
        device_to: torch.device | None = None,
        lowvram_model_memory: int = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
    ) -> None:
        """Bring the weights to their device and make this patcher's LoRAs the ones that count.

        A function of another node may ask for it within a trace, of which it is no part.
        """
        with _disable_current_modes():
            self._load(device_to, lowvram_model_memory, force_patch_weights, full_load)

    def _load(self, device_to: Any, *more: Any) -> None:
        if self.weight_wrapper_patches:
            raise lora.LoRAError("A GGML model cannot be trained: its weights are quantized and in another process.")
        self._join()
        self._set_patches(None)
        self.current_hooks = None
        for _, module in components_of(self.model):
            if module.joined_to is None:
                module.load()
        self.model.device = device_to
        self.model.model_lowvram = False
        self.model.model_loaded_weight_memory = self.model_size()
        self.model.current_weight_patches_uuid = self.patches_uuid
        for callback in self.get_all_callbacks(CallbacksMP.ON_LOAD):
            callback(self, device_to, *more)
        self.apply_hooks(self.forced_hooks, force_apply=True)

    def partially_load(self, *args: Any, **kwargs: Any) -> Any:
        """As ModelPatcher, which calls `load` only where this patcher's weights are not those that are loaded."""
        self._join()
        return super().partially_load(*args, **kwargs)

    def get_free_memory(self, device: Any) -> int:
        """0: otherwise core computes several conditions at once where memory is free, and a step takes more of it.

        A function of another node may work on conditions that are computed at once, and have no effect on each alone.
        """
        functions = functions_in(self.model_options.get("transformer_options", {}))
        return _ANY if any(reads(function, "cond_or_uncond") for function in functions) else 0

    def partially_unload(self, device_to: Any, memory_to_free: int = 0, force_patch_weights: bool = False) -> int:
        """Nothing: weights leave a device all together, in `detach`."""
        return 0

    def detach(self, unpatch_all: bool = True) -> Any:
        """As ModelPatcher; with `unpatch_all` the runner gives back the memory too."""
        model = super().detach(unpatch_all)
        if unpatch_all:
            for _, module in components_of(self.model):
                module.loaded.unload()
        return model

    def cleanup(self) -> None:
        """As ModelPatcher, after sampling; weights that live on disk are given back."""
        super().cleanup()
        for _, module in components_of(self.model):
            module.loaded.end_phase()

    def patch_hooks(self, hooks: comfy.hooks.HookGroup | None) -> None:
        """Take the LoRAs of these hooks besides the patcher's own; scheduled LoRAs change in the middle of sampling."""
        if hooks != self.current_hooks or hooks is not None:
            self._set_patches(hooks)
        self.current_hooks = hooks

    def unpatch_hooks(self, whitelist_keys_set: set[str] | None = None) -> None:
        """Nothing: no weight was changed for a hook."""

    def get_key_patches(self, filter_prefix: str | None = None) -> Any:
        """Raises: the weights are in another process and quantized."""
        raise NotImplementedError("A GGML model cannot be merged: load the model with ComfyUI's own loader for that.")

    def model_state_dict_for_saving(self, model: Any = None, prefix: str = "") -> Any:
        """Raises NotImplementedError: it could only be saved as the file it came from."""
        raise NotImplementedError("A GGML model cannot be saved: it is the file it was loaded from, unchanged.")

    def _check(self, patches: dict[str, list[lora.Patch]]) -> None:
        components, widened = list(components_of(self.model)), self._widened
        for key, entries in patches.items():
            module, name = _component(components, key)
            for entry in entries:
                module.check_patch(key, name, entry, widened)

    @property
    def _widened(self) -> float:
        """How many times as many channels the model takes as a latent has: a mask and a picture besides it."""
        config = getattr(self.model, "model_config", None)
        channels = (getattr(config, "unet_config", None) or {}).get("in_channels")
        return channels / self.model.latent_format.latent_channels if isinstance(channels, int) else 1.0

    def _join(self) -> None:
        """Have the model's programs compute the models that its functions bring, where these are placed alike."""
        brought = {id(each): each for each in self.model_patches_models() if isinstance(each, ComponentPatcher)}
        others = [module for each in brought.values() for _, module in components_of(each.model)]
        for _, module in components_of(self.model):
            module.join(others)

    def _set_patches(self, hooks: comfy.hooks.HookGroup | None) -> None:
        patches = defaultdict(list, {key: list(entries) for key, entries in self.patches.items()})
        for key, entries in self.get_combined_hook_patches(hooks).items():
            patches[key] += entries
        for prefix, module in components_of(self.model):
            named = {key[len(prefix) :]: (key, patches[key]) for key in patches if key.startswith(prefix)}
            module.set_patches(named, self._widened)


def _component(components: Iterable[tuple[str, Component]], key: str) -> tuple[Component, str]:
    """The component whose weight a key names, and its name there. Raises LoRAError where there is none."""
    for prefix, module in components:
        if key.startswith(prefix):
            return module, key[len(prefix) :]
    raise lora.LoRAError(f"{key} is not a weight of this model.")
