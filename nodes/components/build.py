"""ComfyUI's modules built by its own detection from the header of a file, and the place of each parameter there."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.model_base
import comfy.sd
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from ...native.placement import MIB
from ...native.weights import Array, Parameter, WeightFile, WeightFileError, WeightSet
from ...native.weights.weight_set import Role
from .component import MetaOperations
from .identify import another_kind, refuse_adapters
from .recording import Recording

WEIGHTS = ("weight_", "qweight", "gamma", "scale", "parametrizations.")  # what layers have in place of a `weight`
# Parameters of so few elements may have values that the module gives them, such as the scale of TAESD's latents.
_FEW = 4
LARGEST_COMPUTED = 1 << 30  # bytes of weights that the file has in another layout and that are kept in RAM


@torch.inference_mode(False)  # ComfyUI runs nodes in it, and what is made in it cannot be traced
def diffusion_model(
    header: WeightFile, wanted: str = "a diffusion model"
) -> tuple[comfy.model_base.BaseModel, WeightSet]:
    """Core's model around a diffusion model without values, and its weights.

    wanted: what is asked for, for messages.
    Raises WeightFileError where core does not know the model, or the file has not all of it.
    """
    refuse_adapters(header, wanted)
    recording = Recording(header)
    options = {"dtype": torch.float32, "custom_operations": MetaOperations}
    with described(header, "diffusion model"), recording, torch.no_grad():
        patcher = comfy.sd.load_diffusion_model_state_dict(
            dict(recording.state_dict), model_options=options, metadata=header.texts, disable_dynamic=True
        )
    if patcher is None:
        raise another_kind(header, wanted)
    return patcher.model, diffusion_weights(patcher.model, recording)


def diffusion_weights(model: comfy.model_base.BaseModel, recording: Recording, prefix: str = "") -> WeightSet:
    """The weights of the diffusion model in core's model; prefix: of its tensors' names in the file."""
    _check_blocks(recording.header, model.diffusion_model, prefix)
    _check_layers(recording.header, model.diffusion_model, prefix)
    _check_first_blocks(recording, model.diffusion_model, prefix)
    _read_beside(model, recording)
    read_buffers(model.diffusion_model, recording)
    return weights_of(model.diffusion_model, recording, f"{type(model.model_config).__name__} diffusion model")


def _read_beside(model: comfy.model_base.BaseModel, recording: Recording) -> None:
    """Give core's model what it computes with itself, beside the diffusion model: embedders of a length or an angle."""
    for path, part in model.named_modules():
        if path.partition(".")[0] == "diffusion_model":
            continue
        for name, tensor in part._parameters.items():
            if tensor is not None and recording.knows(tensor):
                values = recording.values(tensor).to(torch.float32)
                part._parameters[name] = torch.nn.Parameter(values, requires_grad=False)


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


def _check_first_blocks(recording: Recording, core: torch.nn.Module, prefix: str) -> None:
    """Raise WeightFileError for what core has not because the first block, by which it detects, lacks it alone."""
    known = core.state_dict().keys()
    names = [name.removeprefix(prefix) for name in recording.state_dict if name.startswith(prefix)]
    unknown = [name for name in names if name not in known]
    for path, blocks in core.named_modules():
        if not isinstance(blocks, torch.nn.ModuleList):
            continue
        start = f"{path}."
        found: dict[str, set[str]] = {}
        for name in unknown:
            if name.startswith(start):
                number, _, rest = name.removeprefix(start).partition(".")
                found.setdefault(rest, set()).add(number)
        for rest, numbers in found.items():
            if "0" not in numbers and 2 * len(numbers) >= len(blocks):
                raise WeightFileError(
                    f"{recording.header.path} has {prefix}{start}{min(numbers)}.{rest} but no "
                    f"{prefix}{start}0.{rest}. The file is incomplete or damaged: download it again."
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
        elif found := recording.parameter(key, tensor, _role(core, key)):
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


def read_buffers(core: torch.nn.Module, recording: Recording) -> None:
    """Give a module's buffers the values that the file has: nodes and core's own code compute with some of them."""
    for buffer in core.buffers():
        if buffer.numel() and recording.knows(buffer):  # a file may have an empty one, as a mark
            with torch.no_grad():  # PixArt has a parameter among them
                buffer.copy_(recording.values(buffer))


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


def _role(core: torch.nn.Module, name: str) -> Role:
    """The role of a parameter in its module."""
    path, _, part = name.rpartition(".")
    layer = core.get_submodule(path)
    if isinstance(layer, torch.nn.Linear):
        return "linear" if part == "weight" else ""
    if isinstance(layer, getattr(MetaOperations, "MoEExperts", ())):  # which older ComfyUIs have not
        return "experts" if part == "weight" else ""
    return "" if isinstance(layer, torch.nn.Embedding) else "own"


# The words of Python for a function that does not take the arguments that it is called with.
_OTHER_SIGNATURE = re.compile(r"\(\) (missing \d+ required|got an unexpected keyword|takes .* positional argument)")


@contextmanager
def described(header: WeightFile, kind: str) -> Iterator[None]:
    """Around core's detection: raises WeightFileError where the tensors of a file describe no model of the kind."""
    try:
        yield
    except WeightFileError:
        raise
    except Exception as error:  # whatever core's code runs into on names and shapes that it did not expect
        why = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, ImportError) or (isinstance(error, TypeError) and _OTHER_SIGNATURE.search(str(error))):
            raise WeightFileError(
                f"ComfyUI's own code does not fit the Python packages installed beside it ({why:.300}). "
                f"{header.path} is not the cause: update ComfyUI, or install the package in a version of its time."
            ) from error
        raise WeightFileError(
            f"The tensors in {header.path} do not describe a whole {kind} ({why:.300}). "
            "The file is incomplete or damaged, or it is another model: choose another file or download it again."
        ) from error
