"""Registers the local language model with ComfyUI's model management, so that `/free` and memory pressure unload it."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...native.llm.memory import memory_of_model
from ...native.llm.model import LocalModel
from ...native.llm.server_lifetime import running, unload
from ...native.placement import CPU
from ..components.host import COMFYUI
from ..loaders.device_inputs import devices


class LanguageModelWeights(torch.nn.Module):
    """An empty module in place of the weights in the child process; ComfyUI logs a model by its class name."""


class LanguageModelPatcher(ModelPatcher):
    """A ModelPatcher for a local language model: loading evicts others from its device, detaching ends its process."""

    def __init__(self, model: LocalModel) -> None:
        """Raises WeightFileError when the file is gone."""
        # ComfyUI unloads what is on torch's device, whatever else there is.
        super().__init__(LanguageModelWeights(), comfy.model_management.get_torch_device(), torch.device("cpu"))
        self.language_model = model
        self._memory = memory_of_model(model)

    def model_size(self) -> int:
        """Bytes that count against torch's device, which may be the GPU that the model is on."""
        return self._memory.on_device + (self._memory.on_cpu if self.load_device.type == "cpu" else 0)

    def load(self, device_to: Any = None, *_: Any, **__: Any) -> None:
        """Evicts other models from its device; its process starts with the first request."""
        device = self.language_model.device
        needed = self._memory.on_cpu if device == CPU else self._memory.on_device
        COMFYUI.lifetimes.evict(device, needed, lambda: _free(device))
        self.model.device = device_to
        self.model.model_lowvram = False
        self.model.model_loaded_weight_memory = self.model_size()
        self.model.current_weight_patches_uuid = self.patches_uuid

    def partially_unload(self, device_to: Any, memory_to_free: int = 0, force_patch_weights: bool = False) -> int:
        """Returns 0: it is only unloaded whole, in `detach`."""
        return 0

    def detach(self, unpatch_all: bool = True) -> Any:
        """As ModelPatcher; `unpatch_all` also ends the process, which frees its memory."""
        model = super().detach(unpatch_all)
        if unpatch_all:
            unload(self.language_model)
        return model


_registered: LanguageModelPatcher | None = None  # one, as one local language model is in memory


def register(model: LocalModel) -> None:
    """Has ComfyUI make room for a model and manage it; does nothing while its process runs.

    Raises WeightFileError when its file is gone.
    """
    global _registered
    server = running()
    if _registered is None or _registered.language_model != model or server is None or server.model != model:
        unload()
        _registered = LanguageModelPatcher(model)
    comfy.model_management.load_models_gpu([_registered])


def _free(device: str) -> int:
    """Free bytes of a device."""
    if device == CPU:
        return int(comfy.model_management.get_free_memory(torch.device("cpu")))
    return next((each.free for each in devices() if each.name == device), 0)
