"""ComfyUI's account of the language model in memory: through it `/free`, unloading and memory pressure reach it."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...native.llm.memory import memory_of_model
from ...native.llm.model import LocalModel
from ...native.llm.server_lifetime import running, unload
from ...native.placement import CPU
from ..components.lifetime import evict
from ..loaders.device_inputs import devices


class LanguageModelWeights(torch.nn.Module):
    """Stands for weights that lie in a child process; ComfyUI's log calls a model by its class."""


class LanguageModelPatcher(ModelPatcher):
    """A ModelPatcher for a local language model: loading makes room for it, detaching ends its process."""

    def __init__(self, model: LocalModel) -> None:
        """Raises WeightFileError when the file is gone."""
        # ComfyUI unloads what is on torch's device, whatever else there is.
        super().__init__(LanguageModelWeights(), comfy.model_management.get_torch_device(), torch.device("cpu"))
        self.language_model = model
        self._memory = memory_of_model(model)

    def model_size(self) -> int:
        """Bytes on torch's device, which may be the GPU that the model is on."""
        return self._memory.on_device + (self._memory.on_cpu if self.load_device.type == "cpu" else 0)

    def load(self, device_to: Any = None, *_: Any, **__: Any) -> None:
        """Make room where the model computes; its process starts when it is asked."""
        device = self.language_model.device
        evict(device, self._memory.on_cpu if device == CPU else self._memory.on_device, lambda: _free(device))
        self.model.device = device_to
        self.model.model_lowvram = False
        self.model.model_loaded_weight_memory = self.model_size()
        self.model.current_weight_patches_uuid = self.patches_uuid

    def partially_unload(self, device_to: Any, memory_to_free: int = 0, force_patch_weights: bool = False) -> int:
        """Nothing: it leaves all together, in `detach`."""
        return 0

    def detach(self, unpatch_all: bool = True) -> Any:
        """As ModelPatcher; with `unpatch_all` the memory is given back too."""
        model = super().detach(unpatch_all)
        if unpatch_all:
            unload(self.language_model)
        return model


_accounted: LanguageModelPatcher | None = None  # one, as one local language model is in memory


def account_for(model: LocalModel) -> None:
    """Have ComfyUI make room for a model and know of it; nothing happens while its process is there."""
    global _accounted
    engine = running()
    if _accounted is None or _accounted.language_model != model or engine is None or engine.model != model:
        unload()
        _accounted = LanguageModelPatcher(model)
    comfy.model_management.load_models_gpu([_accounted])


def _free(device: str) -> int:
    """Bytes that are free on a device now."""
    if device == CPU:
        return int(comfy.model_management.get_free_memory(torch.device("cpu")))
    return next((each.free for each in devices() if each.name == device), 0)
