"""A model that another node has loaded in torch, moved to a device of ours: its weights are sent from its memory."""

from __future__ import annotations

import copy
from typing import Any

import comfy.controlnet
import comfy.model_base
import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher

from ...native.placement import AUTO, Placement
from ...native.weights import WeightSet
from ..components.autoencoder_build import ComponentVAE
from ..components.component import Component
from ..components.control_lora import ControlLora, control_lora
from ..components.core_module import CoreModule, with_components
from ..components.encoder import encoder
from ..components.encoder_build import transformers_of
from ..components.memory_weights import NotInMemory, module_in_memory
from ..components.patcher import ComponentPatcher
from ..components.tile_choice import TileChoice
from .device_inputs import load_device
from .diffusion import placed_model
from .vae import OVERLAP, load_vae

# What another node has put into a patcher, besides the weights.
_CARRIED = (
    "object_patches", "model_options", "attachments", "additional_models", "callbacks", "wrappers", "hook_patches",
    "forced_hooks", "hook_mode", "is_clip", "patches_uuid",
)  # fmt: skip


def moved(value: Any, placement: Placement) -> tuple[Any, list[WeightSet]]:
    """A model of core's computed where `placement` says, and its weights; what was given stays as it is.

    Raises NotInMemory for what is no model, or one whose weights are not torch's.
    """
    _unpatched(value)
    if isinstance(value, comfy.sd.CLIP):
        return _moved_clip(value, placement)
    if isinstance(value, comfy.sd.VAE):
        return _moved_vae(value, placement)
    if isinstance(value, ModelPatcher) and isinstance(value.model, comfy.model_base.BaseModel):
        return _moved_model(value, placement)
    device = load_device(placement.device)
    if isinstance(value, comfy.controlnet.ControlLora):
        placed = control_lora(value, "of another loader", None, placement, device)
        return placed, [placed.file]
    found: list[WeightSet] = []

    def component(module: torch.nn.Module) -> CoreModule:
        core, weights = module_in_memory(module, type(module).__name__)
        found.append(weights)
        return CoreModule(core, weights, placement)

    result = with_components(value, component, device) if hasattr(value, "__dict__") else value
    if not found:
        raise NotInMemory(
            f"GGML Move was given a {type(value).__name__}, in which it finds no model that torch computes. Link a "
            "MODEL, CLIP, VAE, CONTROL_NET, UPSCALE_MODEL or CLIP_VISION that a loader of ComfyUI's or another pack's "
            "has made."
        )
    return result, found


def _unpatched(value: Any) -> None:
    """Have ComfyUI take its copy off the GPU, which puts weights back that LoRAs have changed."""
    patchers = [value, *vars(value).values()] if hasattr(value, "__dict__") else []
    for each in patchers:
        if isinstance(each, (ComponentPatcher, Component, ControlLora)):
            raise NotInMemory(
                "GGML Move was given a model that GGML computes already. Choose the device in the node that loads it, "
                "and remove this node."
            )
        if isinstance(each, ModelPatcher):
            unload = getattr(comfy.model_management, "unload_model_and_clones", None)  # of newer ComfyUIs
            comfy.model_management.unload_all_models() if unload is None else unload(each)


def _moved_model(patcher: ModelPatcher, placement: Placement) -> tuple[ComponentPatcher, list[WeightSet]]:
    name = f"{type(patcher.model.model_config).__name__} diffusion model"
    core, weights = module_in_memory(patcher.model.diffusion_model, name)
    model = copy.copy(patcher.model)
    model._modules = dict(model._modules)
    model.diffusion_model = core
    model.manual_cast_dtype = None
    model.current_weight_patches_uuid = None
    return _carried(patcher, placed_model(model, weights, placement)), [weights]


def _moved_clip(clip: comfy.sd.CLIP, placement: Placement) -> tuple[comfy.sd.CLIP, list[WeightSet]]:
    core, weights = module_in_memory(clip.cond_stage_model, "text encoder")
    paths = {id(module): path for path, module in core.named_modules()}
    found = []
    for owner, name, module in list(transformers_of(core)):
        prefix = f"{paths[id(module)]}."
        arrays = {key[len(prefix) :]: x for key, x in weights.arrays.items() if key.startswith(prefix)}
        found.append(WeightSet(f"{type(module).__name__} ({name})", {}, (), arrays))
        setattr(owner, name, encoder(module, found[-1], placement))
    result = copy.copy(clip)
    result.cond_stage_model = core
    device = load_device(placement.device)
    result.patcher = _carried(clip.patcher, ComponentPatcher(core, device, torch.device("cpu")))
    return result, found


def _moved_vae(vae: comfy.sd.VAE, placement: Placement) -> tuple[comfy.sd.VAE, list[WeightSet]]:
    core, weights = module_in_memory(vae.first_stage_model, f"VAE ({type(vae.first_stage_model).__name__})")
    result = copy.copy(vae)
    result.__class__ = ComponentVAE
    result.first_stage_model, result.vae_dtype = core, torch.float32
    return load_vae(result, weights, placement, TileChoice(AUTO, 0, OVERLAP)), [weights]


def _carried(before: ModelPatcher, after: ComponentPatcher) -> ComponentPatcher:
    """The patcher with what nodes have put into another: LoRAs, options, samplings. Raises LoRAError for a patch."""
    given = before.clone()
    for name in _CARRIED:
        if hasattr(given, name):
            setattr(after, name, getattr(given, name))
    after.patches = given.patches
    after.check_patches()
    return after
