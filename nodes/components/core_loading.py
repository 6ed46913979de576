"""Models of core's, other than those a sampler runs, built by core's own loader from the header of a file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import comfy.utils
import torch

from ...native.placement import Placement
from ...native.weights import WeightFileError, WeightSet, read_header
from .build import described, own_values, parameters_without_values, read_buffers, weights_of
from .component import MetaOperations
from .core_function import with_names
from .core_module import CoreModule, with_components
from .identify import another_kind
from .memory_weights import module_in_memory
from .recording import Recording

HEADERS = (".safetensors", ".sft", ".gguf")  # files of which the header says where each tensor is


@dataclass(frozen=True)
class CoreLoader:
    """A function of core's that reads a file and makes a model of it."""

    kind: str  # of model, for messages
    entry: str  # "module:name" or "module:class.name"; its first argument is the file
    options: Mapping[str, Any] = field(default_factory=dict)
    repeats: bool = False  # the model computes at every step of a sampler


_FLOAT32 = {"model_options": {"dtype": torch.float32, "custom_operations": MetaOperations}}
CONTROLNET = CoreLoader("ControlNet", "comfy.controlnet:load_controlnet", _FLOAT32, repeats=True)
CLIP_VISION = CoreLoader("CLIP vision model", "comfy.clip_vision:load")
UPSCALER = CoreLoader("upscale model", "comfy_extras.nodes_upscale_model:UpscaleModelLoader.execute")
LATENT_UPSCALER = CoreLoader("latent upscale model", "comfy_extras.nodes_hunyuan:LatentUpscaleModelLoader.execute")
MODEL_PATCH = CoreLoader(
    "model patch", "comfy_extras.nodes_model_patch:ModelPatchLoader.load_model_patch", repeats=True
)
AUDIO_ENCODER = CoreLoader("audio encoder", "comfy_extras.nodes_audio_encoder:AudioEncoderLoader.execute")
BACKGROUND_REMOVAL = CoreLoader("background removal model", "comfy.bg_removal_model:load")
MOGE = CoreLoader("MoGe model", "comfy_extras.nodes_moge:LoadMoGeModel.execute")
FRAME_INTERPOLATION = CoreLoader(
    "frame interpolation model", "comfy_extras.nodes_frame_interpolation:FrameInterpolationModelLoader.execute"
)
OPTICAL_FLOW = CoreLoader("optical flow model", "comfy_extras.nodes_void:OpticalFlowLoader.execute")

# Objects of core's that compute with weights of the diffusion model, which is in another process.
_BOUND = {"ControlLora": "adds to the weights of the diffusion model itself (a Control-LoRA)"}
# Layers that such an object takes of the diffusion model when sampling begins, where its file has none.
_TAKEN = {"ControlNetSD35": ("orig_y_embedder.", "x_embedder.")}


def load_core_model(loader: CoreLoader, path: str, placement: Placement, device: torch.device) -> Any:
    """The model that core's loader makes of a file, with components in place of its modules.

    device: under which ComfyUI keeps account of them. Raises WeightFileError where core knows no such model, or the
    file lacks some of it.
    """
    if not path.lower().endswith(HEADERS):
        value = _in_memory(loader, path)
        _check_bound(loader, path, value)
        return with_components(
            value,
            lambda module: CoreModule(*module_in_memory(module, _name(loader, module)), placement, loader.repeats),
            device,
        )
    recording = Recording(read_header(path))
    value = _without_values(loader, recording)
    _check_bound(loader, path, value)
    return placed_core_model(loader, value, recording, placement, device)


def placed_core_model(
    loader: CoreLoader, value: Any, recording: Recording, placement: Placement, device: torch.device
) -> Any:
    """An object of core's that was made under the recording without values, with components in place of its modules."""

    def component(module: torch.nn.Module) -> CoreModule:
        later = _TAKEN.get(type(value).__name__, ("\0",))
        own = {
            name: torch.zeros(tensor.shape)
            for name, tensor in module.state_dict(keep_vars=True).items()
            if name.startswith(later) and not recording.knows(tensor)
        }
        return CoreModule(module, _weights(loader, module, recording, own), placement, loader.repeats)

    return with_components(value, component, device)


def _check_bound(loader: CoreLoader, path: str, value: Any) -> None:
    """Raises WeightFileError for an object that computes with weights of the diffusion model."""
    if type(value).__name__ in _BOUND:
        raise WeightFileError(
            f"{path} is a {loader.kind} that {_BOUND[type(value).__name__]}, whose weights are in another process. Use "
            "a ControlNet that has all of its weights, or load both with ComfyUI's own loaders."
        )


def _in_memory(loader: CoreLoader, path: str) -> Any:
    """The model with values, of a file of Python's pickle."""
    value = _result(_function(loader, comfy.utils.load_torch_file, path)())
    if value is None:
        raise WeightFileError(f"{path} is not a {loader.kind} that this ComfyUI knows. Choose another file.")
    return value


def _without_values(loader: CoreLoader, recording: Recording) -> Any:
    header = recording.header

    def read(*_: Any, return_metadata: bool = False, **__: Any) -> Any:
        tensors = dict(recording.state_dict)
        return (tensors, header.texts) if return_metadata else tensors

    with ExitStack() as stack:
        stack.enter_context(described(header, loader.kind))
        # In inference mode, in which ComfyUI runs nodes, a recording would see a move to a device before its parts.
        for each in (torch.inference_mode(False), recording, torch.no_grad(), parameters_without_values()):
            stack.enter_context(each)
        value = _result(_function(loader, read, header.path)())
    if value is None:
        raise another_kind(header, f"a {loader.kind}")
    return value


def _weights(
    loader: CoreLoader, module: torch.nn.Module, recording: Recording, later: Mapping[str, torch.Tensor]
) -> WeightSet:
    """later: in the place of weights that it takes of another model."""
    own = {**own_values(module, recording), **later}
    weights = weights_of(module, recording, _name(loader, module), own)
    read_buffers(module, recording)
    return weights


def _name(loader: CoreLoader, module: torch.nn.Module) -> str:
    return f"{loader.kind} ({type(module).__name__})"


def _result(made: Any) -> Any:
    """The first result of a function or node, without the tuple around it."""
    made = getattr(made, "result", made)
    return made[0] if isinstance(made, tuple) else made


def _function(loader: CoreLoader, read: Callable[..., Any], path: str) -> Callable[[], Any]:
    """Core's function with `read` where it reads a file, which it finds at this path; nothing of core is changed."""
    module, _, name = loader.entry.partition(":")
    owner_name, _, last = name.rpartition(".")
    owner: Any = importlib.import_module(module)
    bound: tuple[Any, ...] = ()
    function = getattr(owner, last, None)
    if owner_name:
        owner = getattr(owner, owner_name)
        function = getattr(owner, last)
        bound = (function.__self__,) if isinstance(function, MethodType) else (owner(),)
    function = getattr(function, "__func__", function)
    copied = with_names(
        function,
        {
            "comfy.utils.load_torch_file": read,
            "comfy.utils.weight_dtype": lambda *_, **__: torch.float32,
            "folder_paths.get_full_path_or_raise": lambda *_: path,
        },
    )
    return lambda: copied(*bound, path, **loader.options)
