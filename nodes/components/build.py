"""ComfyUI's modules built by its own detection from the header of a file, and the place of each parameter there."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.sd
import folder_paths
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from ...native.placement import MIB
from ...native.weights import Array, Parameter, WeightFile, WeightFileError, WeightSet
from ...native.weights.identify import ADAPTERS, another_kind, identify
from .component import MetaOperations
from .llama_layout import in_transformers_layout, with_towers
from .recording import Recording

# By core's names of two encoders: the model that they are for. Core takes other files for one without a choice.
PAIRS = {
    ("CLIP_L", "CLIP_G"): "STABLE_DIFFUSION",
    ("T5_XXL", "CLIP_L"): "FLUX",
    ("LLAMA3_8", "CLIP_L"): "HUNYUAN_VIDEO",
    ("GEMMA_3_4B", "JINA_CLIP_2"): "NEWBIE",
}
OTHER_SHAPE = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)")  # as torch says it
WEIGHTS = ("weight_", "qweight", "gamma", "scale", "parametrizations.")  # what layers have in place of a `weight`
# Parameters of so few elements may have values that the module gives them, such as the scale of TAESD's latents.
_FEW = 4
_IN_CHECKPOINTS = "model.diffusion_model."  # what the names of a checkpoint's diffusion model begin with
LARGEST_COMPUTED = 1 << 30  # bytes of weights that the file has in another layout and that are kept in RAM


@torch.inference_mode(False)  # ComfyUI runs nodes in it, and what is made in it cannot be traced
def diffusion_model(header: WeightFile) -> tuple[comfy.model_base.BaseModel, WeightSet]:
    """Core's model around a diffusion model without values, and its weights.

    Raises WeightFileError where core does not know the model, or the file has not all of it.
    """
    refuse_others(header, "a diffusion model")
    recording = Recording(header)
    options = {"dtype": torch.float32, "custom_operations": MetaOperations}
    with described(header, "diffusion model"), recording, torch.no_grad():
        patcher = comfy.sd.load_diffusion_model_state_dict(
            dict(recording.state_dict), model_options=options, metadata=metadata_of(header), disable_dynamic=True
        )
    if patcher is None:
        raise another_kind(header, "a diffusion model")
    return patcher.model, diffusion_weights(patcher.model, recording)


def diffusion_weights(model: comfy.model_base.BaseModel, recording: Recording, prefix: str = "") -> WeightSet:
    """The weights of the diffusion model in core's model; prefix: of its tensors' names in the file."""
    _check_blocks(recording.header, model.diffusion_model, prefix)
    _check_layers(recording.header, model.diffusion_model, prefix)
    _read_beside(model, recording)
    return weights_of(model.diffusion_model, recording, f"{type(model.model_config).__name__} diffusion model")


def metadata_of(header: WeightFile) -> dict[str, str]:
    """The metadata of a file as core reads them."""
    return {key: value for key, value in header.metadata.items() if isinstance(value, str)}


def _read_beside(model: comfy.model_base.BaseModel, recording: Recording) -> None:
    """Give core's model what it computes with itself, beside the diffusion model: embedders of a length or an angle."""
    for path, part in model.named_modules():
        if path.partition(".")[0] == "diffusion_model":
            continue
        for name, tensor in part._parameters.items():
            if tensor is not None and recording.knows(tensor):
                values = recording.values(tensor).to(torch.float32)
                part._parameters[name] = torch.nn.Parameter(values, requires_grad=False)


@dataclass(frozen=True, eq=False)
class Part:
    """A module inside a model of core's, to be replaced by a component: the attribute `name` of `owner`."""

    owner: torch.nn.Module
    name: str
    core: torch.nn.Module
    weights: WeightSet


@torch.inference_mode(False)  # ComfyUI runs nodes in it, and what is made in it cannot be traced
def text_encoders(
    headers: Sequence[WeightFile], kind: comfy.sd.CLIPType | None, sizes: Mapping[str, Any] | None = None
) -> tuple[comfy.sd.CLIP, list[Part]]:
    """Core's CLIP of these files, and its modules without values.

    kind: which model the encoders are for; None: for the one that they leave no doubt of.
    sizes: `model_options` of core that give encoders other sizes.
    Raises WeightFileError where core does not know the encoders, or the files have not all of them.
    """
    for header in headers:
        refuse_others(header, "a text encoder", "vae", "flux2_vae", "video_vae")
    headers = with_towers(headers)
    recordings = [Recording(header) for header in headers]
    with ExitStack() as stack:
        stack.enter_context(described(headers[0], "set of text encoders"))
        stack.enter_context(_variants_named(headers[0]))
        for each in recordings:
            stack.enter_context(each)
        stack.enter_context(torch.no_grad())
        tensors = [in_transformers_layout(each.header, dict(each.state_dict)) for each in recordings]
        clip = comfy.sd.load_text_encoder_state_dicts(
            tensors, embedding_directory=folder_paths.get_folder_paths("embeddings"),
            clip_type=kind or _kind_of(headers, tensors), model_options=encoder_options(sizes), disable_dynamic=True,
        )  # fmt: skip
    return clip, list(parts_of(clip.cond_stage_model, recordings))


def encoder_options(sizes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Core's `model_options` of text encoders without values."""
    # The patcher is replaced. A device that is not the initial one keeps core from loading the model now; two that are
    # the same keep it from asking how much memory they have.
    meta = torch.device("meta")
    devices = {"load_device": meta, "offload_device": meta, "initial_device": torch.device("cpu")}
    return {"dtype": torch.float32, "custom_operations": MetaOperations, **devices, **(sizes or {})}


@contextmanager
def _variants_named(header: WeightFile) -> Iterator[None]:
    """Around core's loading of encoders: raises WeightFileError where one has other sizes than core's."""
    try:
        yield
    except RuntimeError as error:
        if not (other := OTHER_SHAPE.search(" ".join(str(error).split()))):
            raise
        raise WeightFileError(
            f"{header.path} does not fit the text encoders that ComfyUI takes it for: {other[1]} is {other[2]}, where "
            f"{other[3]} is needed. It is a variant of one (as UMT5 and T5XXL-Unchained are of T5), or it is for "
            "another model: choose the file that the diffusion model's page names, or its `type`."
        ) from error


def _kind_of(headers: Sequence[WeightFile], tensors: Sequence[Mapping[str, torch.Tensor]]) -> comfy.sd.CLIPType:
    """The model that encoders are for. Raises WeightFileError for two that several models, or none, have together."""
    found = {getattr(comfy.sd.detect_te_model(each), "name", None) for each in tensors}
    for pair, kind in PAIRS.items():
        if found == set(pair) or len(headers) != 2 or None in found:
            return getattr(comfy.sd.CLIPType, kind)
    paths = " and ".join(header.path for header in headers)
    raise WeightFileError(f"{paths}: the files do not say which model these two encoders are for. Choose it in `type`.")


def parts_of(owner: torch.nn.Module, recordings: Sequence[Recording]) -> Iterator[Part]:
    """The transformers of text encoders, and other modules with parameters beside them."""
    for holder, name, module in transformers_of(owner):
        tensors = module.state_dict(keep_vars=True).values()
        source = max(recordings, key=lambda each: sum(each.knows(tensor) for tensor in tensors))
        _drop_absent(module, source)
        yield Part(holder, name, module, weights_of(module, source, f"{type(module).__name__} ({name})"))


def transformers_of(owner: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Module]]:
    """Of text encoders: the owner of each transformer or module with parameters beside one, its name there and it."""
    for name, module in list(owner.named_children()):
        if any(isinstance(getattr(part, "transformer", None), torch.nn.Module) for part in module.modules()):
            yield from transformers_of(module)
        elif any(True for _ in module.parameters()):
            yield owner, name, module


def _drop_absent(module: torch.nn.Module, recording: Recording) -> None:
    """Take away parts of which the file has nothing: the projection of a CLIP, the eyes of a language model."""
    asked: Any = getattr(module, "get_input_embeddings", None)
    needed = asked() if asked else None
    for name, part in list(module.named_children()):
        tensors = list(part.state_dict(keep_vars=True).values())
        if tensors and part is not needed and not any(map(recording.knows, tensors)):
            setattr(module, name, None)


def _check_blocks(header: WeightFile, core: torch.nn.Module, prefix: str) -> None:
    """Raise WeightFileError where the file has blocks of a list beyond those that core has counted.

    prefix: of the module's names in the file.
    """
    lists = {name: len(part) for name, part in core.named_modules() if isinstance(part, torch.nn.ModuleList)}
    numbered = re.compile(r"(?:^|.*?\.)(" + "|".join(map(re.escape, lists)) + r")\.(\d+)\.")
    for name in header.tensors if lists else ():
        found = numbered.match(name) if name.startswith(prefix) else None
        if found and int(found[2]) >= lists[found[1]]:
            raise WeightFileError(
                f"{header.path} has {name} of a model with {lists[found[1]]} {found[1]}, but no {found[1]}."
                f"{lists[found[1]]}. The file is incomplete: download it again."
            )


def _check_layers(header: WeightFile, core: torch.nn.Module, prefix: str) -> None:
    """Raise WeightFileError where the file has the bias of a layer alone, which core would take for a model without.

    prefix: of the module's names in the file.
    """
    known = core.state_dict().keys()
    for name in header.tensors:
        layer = name.removesuffix(".bias")
        if not name.startswith(prefix) or layer == name or f"{layer}.weight" in header.tensors:
            continue
        others = tuple(f"{layer}.{kind}" for kind in WEIGHTS)
        if not any(key.startswith(others) for key in header.tensors) and not any(
            name == key or name.endswith("." + key) for key in known
        ):
            raise WeightFileError(
                f"{header.path} has {name} but no {layer}.weight. The file is incomplete or damaged: download it again."
            )


def weights_of(
    core: torch.nn.Module, recording: Recording, name: str, own: Mapping[str, torch.Tensor] | None = None
) -> WeightSet:
    """Where the parameters of a module that was loaded under the recording are; it keeps none of their values.

    name: of the model, for messages. own: values that the module has by itself where the file has none.
    Raises WeightFileError where the file lacks some.
    """
    own = own or {}
    parameters: dict[str, Parameter] = {}
    computed: dict[str, torch.Tensor] = {}
    missing = []
    for key, tensor in core.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue  # counts and indices, which the module computes for itself, and marks of a variant
        if not recording.knows(tensor):
            if key not in own:
                missing.append(key)
        elif found := recording.parameter(key, tensor, _in_linear(core, key)):
            parameters[key] = found
        else:
            computed[key] = tensor
    header = recording.header
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise WeightFileError(
            f"{header.path} seems to be a {name} but lacks {', '.join(missing[:3])}{more}. The file is incomplete or "
            "of a variant that this ComfyUI does not know: use the complete model in one file."
        )
    nbytes = 4 * sum(tensor.numel() for tensor in computed.values())
    if nbytes > LARGEST_COMPUTED:
        raise WeightFileError(
            f"{header.path} stores {len(computed)} weights of the {name} in another layout than ComfyUI, such as "
            f"{next(iter(computed))}: {nbytes / MIB:,.0f} MiB would have to be converted. Use a file in the model's "
            "original layout, or a GGUF file."
        )
    arrays: dict[str, Array] = {
        key: recording.values(tensor).to(torch.float32).numpy() for key, tensor in computed.items()
    }
    arrays |= {key: tensor.detach().float().numpy() for key, tensor in own.items()}
    for part in core.modules():
        for key, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[key] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
    return WeightSet(name, parameters, header.files, arrays)


def own_values(core: torch.nn.Module, recording: Recording) -> dict[str, torch.Tensor]:
    """The values that a module made under the recording has by itself where the file has none."""
    return {
        name: tensor
        for name, tensor in core.state_dict(keep_vars=True).items()
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta and not recording.knows(tensor)
    }


@contextmanager
def parameters_without_values() -> Iterator[None]:
    """The parameters of modules that this thread makes are on the meta device; buffers and tables have their values."""
    thread = threading.get_ident()

    def without_values(module: torch.nn.Module, _name: str, parameter: Any) -> torch.nn.Parameter | None:
        if parameter is None or threading.get_ident() != thread:
            return None
        if parameter.numel() <= _FEW and not hasattr(module, "reset_parameters"):
            return None
        return torch.nn.Parameter(parameter.to("meta"), requires_grad=False)

    hook = register_module_parameter_registration_hook(without_values)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()


def _in_linear(core: torch.nn.Module, name: str) -> bool:
    """Whether a parameter is the weight of a linear layer."""
    layer, _, part = name.rpartition(".")
    return part == "weight" and isinstance(core.get_submodule(layer), torch.nn.Linear)


def refuse_others(header: WeightFile, wanted: str, *keys: str) -> None:
    """Raise WeightFileError for a file that holds no more than an adapter, or a kind of model with one of the keys.

    A checkpoint holds a diffusion model besides, whether that is of a known kind or not.
    """
    kinds = identify(header)
    is_checkpoint = any(name.startswith(_IN_CHECKPOINTS) for name in header.tensors)
    if len(kinds) == 1 and (kinds[0] in ADAPTERS or (kinds[0].key in keys and not is_checkpoint)):
        raise another_kind(header, wanted)


@contextmanager
def described(header: WeightFile, kind: str) -> Iterator[None]:
    """Around core's detection: raises WeightFileError where the tensors of a file describe no model of the kind."""
    try:
        yield
    except WeightFileError:
        raise
    except Exception as error:  # whatever core's code runs into on names and shapes that it did not expect
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightFileError(
            f"The tensors in {header.path} do not describe a whole {kind} ({why:.300}). "
            "The file is incomplete or damaged, or it is another model: choose another file or download it again."
        ) from error
