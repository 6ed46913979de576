"""Nodes that have no rule: those of ComfyUI that only prepare are executed, through others values pass unchanged."""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import comfy.samplers
import comfy.sd
import folder_paths
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import _io, io

import nodes as core

from ...native.engines.dry_run import unwritten_zeros
from ..components.autoencoder import VAEModule
from ..components.core_function import with_names
from ..components.core_module import component_parts
from ..components.patcher import ComponentPatcher
from .lora_files import unreadable_lora
from .size_guard import SizeGuard
from .unknown import Inputs, NodeTurn, Outputs, Unknown, Unplanned
from .value_lists import ValueList, given_lists, made_lists

log = logging.getLogger(__name__)
SETTINGS = frozenset({
    "BOOLEAN", "COMBO", "FLOAT", "FLOATS", "GUIDER", "INT", "LATENT", "NOISE", "SAMPLER", "SIGMAS", "STRING",
    "WAN_CAMERA_EMBEDDING",
})  # fmt: skip
# Made of what comes over links they are cheap; without any, they are read from files.
_MADE = SETTINGS | {
    "AUDIO", "AUDIO_ENCODER_OUTPUT", "CLIP", "CLIP_VISION_OUTPUT", "CONDITIONING", "CONTROL_NET", "HOOKS",
    "HOOK_KEYFRAMES", "IC_LORA_PARAMETERS", "IMAGE", "MASK", "MODEL", "TIMESTEPS_RANGE", "TRACKS", "VAE", "VIDEO",
    "VOXEL",
}  # fmt: skip
# What models find, of which the values are only known when the workflow runs.
_FOUND = frozenset({"BOUNDING_BOX", "POSE_KEYPOINT", "SPLAT"})
_ANY = frozenset({"*", "COMFY_MATCHTYPE_V3"})  # of outputs that are one of the inputs
_SHORTEST = 3  # tokens of a text that is planned with
_NUMBERS = frozenset({"BOOLEAN", "FLOAT", "INT"})  # inputs that name no file
_CHOICES = frozenset({"", "COMBO"})  # inputs that are a choice of texts, which may be files
_MODELS = ("MODEL", "CLIP", "VAE", "GUIDER", "CONTROL_NET")
_PASSED_ON = (*_MODELS, "CONDITIONING", "LATENT")


def title_of(class_type: str) -> str:
    """The work of a node in words, for the phase of what it computes with a model."""
    node_class = core.NODE_CLASS_MAPPINGS.get(class_type)
    if node_class is None:
        return class_type
    takes, makes = set(_input_types(node_class).values()), set(_output_types(node_class))
    if "VAE" in takes:
        if makes & {"IMAGE", "AUDIO", "VIDEO"}:
            return "Decoding the sound" if "AUDIO" in makes else "Decoding the picture"
        return "Encoding the sound" if "AUDIO" in takes else "Encoding the picture"
    if "CLIP" in takes and "STRING" in makes:
        return "Writing text"
    return "Encoding the prompt" if "CLIP" in takes and "CONDITIONING" in makes else class_type


def needed_inputs(
    class_type: str, given: Inputs, value: Callable[[Any], Any], is_link: Callable[[Any], bool]
) -> dict[str, Any]:
    """The inputs of a node, followed; None for a lazy one that the node does not ask for, as ComfyUI leaves it out.

    given: its own. value: follows an input. An Unknown decides nothing, nor does a list: then all are followed.
    """
    node_class = core.NODE_CLASS_MAPPINGS.get(class_type)
    asks = getattr(node_class, "check_lazy_status", None)
    lazy = {name for name in _lazy_inputs(node_class) if is_link(given.get(name))} if asks else set()
    found = {name: value(each) for name, each in given.items() if name not in lazy}
    if not lazy or any(isinstance(each, Unknown | ValueList) for each in found.values()):
        return {name: found[name] if name in found else value(each) for name, each in given.items()}
    owner = node_class.PREPARE_CLASS_CLONE(None) if issubclass(node_class, io.ComfyNode) else node_class()
    waiting = set(lazy)
    while waiting:
        asked = waiting & set(owner.check_lazy_status(**found, **dict.fromkeys(waiting)) or ())
        if not asked:
            break
        found |= {name: value(given[name]) for name in asked}
        waiting -= asked
    return found | dict.fromkeys(waiting)


def _lazy_inputs(node_class: Any) -> Iterator[str]:
    for group in ("required", "optional"):
        for name, described in (node_class.INPUT_TYPES().get(group) or {}).items():
            if len(described) > 1 and isinstance(described[1], Mapping) and described[1].get("lazy"):
                yield name


def follow(class_type: str, inputs: Inputs, linked: bool, turn: NodeTurn) -> Outputs:
    """The outputs of a node without a rule.

    linked: whether an input comes from another node. Raises Unplanned where a model of this pack computes something
    that cannot be known, and for a node that is not there or fails.
    """
    node_class = core.NODE_CLASS_MAPPINGS.get(class_type)
    if node_class is None:
        raise Unplanned(f"this ComfyUI has no node {class_type}")
    makes = _output_types(node_class)
    if not linked and _reads_file(node_class, inputs):
        return tuple(Unknown(f"{class_type} reads it from a file of its own", foreign=True) for _ in makes)
    inputs = {name: _assumed(node_class, name, value, inputs, turn) for name, value in inputs.items()}
    unknown = next((value for value in inputs.values() if isinstance(value, Unknown)), None)
    if unknown is None and _is_executed(node_class, inputs):
        return tuple(_written(node_class, inputs, made_lists(node_class, execute(class_type, inputs))))
    if unknown is None:
        unknown = Unknown(f"the planner does not know what {class_type} does")
    return _passed_on(node_class, inputs, unknown, turn)


def _reads_file(node_class: Any, inputs: Inputs) -> bool:
    """Whether a node without links makes its outputs of a file: one that a text or a choice of its inputs names."""
    makes, types = set(_output_types(node_class)), _input_types(node_class, inputs)
    if makes <= SETTINGS or set(types.values()) <= _NUMBERS:
        return False
    given = {types[name] for name in inputs if name in types}
    if not given <= _NUMBERS | _CHOICES or not makes <= _MADE - set(_MODELS):
        return True
    return any(map(_names_file, (value for name, value in inputs.items() if types.get(name) in _CHOICES)))


def _names_file(value: Any) -> bool:
    """Whether a text is the name of a file or folder, among inputs and outputs or in a folder of models."""
    if not isinstance(value, str):
        return False
    kinds = list(folder_paths.folder_names_and_paths)
    in_models = any(folder_paths.get_full_path(kind, value) for kind in kinds)
    return in_models or any(map(folder_paths.exists_annotated_filepath, (value, f"{value} [output]")))


def _written(node_class: Any, inputs: Inputs, outputs: Outputs) -> Iterator[Any]:
    """The outputs of a node, of which a text that a model of this pack has written or found is not known."""
    clip = next((each for each in inputs.values() if isinstance(each, comfy.sd.CLIP) and is_ours(each)), None)
    longest = inputs.get("max_length", 0)
    for kind, output in zip(_output_types(node_class), outputs, strict=False):
        if kind == "STRING" and clip is not None:
            yield Unknown("a text encoder writes it", max(_SHORTEST, longest if isinstance(longest, int) else 0))
        elif kind in _FOUND and any(map(is_ours, inputs.values())):
            yield Unknown("a model finds it when the workflow runs")
        else:
            yield output


def execute(class_type: str, inputs: Inputs) -> Outputs:
    """Execute a node of ComfyUI. Raises Unplanned for what the node raises."""
    node_class = core.NODE_CLASS_MAPPINGS[class_type]
    try:
        with SizeGuard():
            is_new = issubclass(node_class, io.ComfyNode)
            function = getattr(node_class, "execute" if is_new else node_class.FUNCTION)
            ours = any(map(is_ours, inputs.values()))
            inputs = _nested(node_class, inputs)
            if ours and loads_models(function):
                owner = node_class.PREPARE_CLASS_CLONE(None) if is_new else node_class()
                made = with_planned_loading(getattr(function, "__func__", function))(owner, **inputs)
                return tuple(getattr(made, "result", made))
            if is_new:
                output = node_class.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**inputs)
                return tuple(output.result or ())
            result = getattr(node_class(), node_class.FUNCTION)(**inputs)
            return tuple(result["result"] if isinstance(result, dict) else result)
    except (Unplanned, InterruptProcessingException):  # the latter an Exception before ComfyUI 0.27
        raise
    except Exception as error:  # of a damaged prompt or file; ComfyUI reports it when the prompt runs
        raise Unplanned(why_it_fails(class_type, inputs, error)) from error


def _nested(node_class: Any, inputs: Inputs) -> Inputs:
    """The inputs as ComfyUI calls a node with them: those called "choice.input" in a mapping, none that it has not."""
    if not issubclass(node_class, io.ComfyNode):
        return given_lists(node_class, inputs)
    groups, _, paths = _io.get_finalized_class_inputs(node_class.INPUT_TYPES(), dict(inputs))
    has = {name for group in ("required", "optional") for name in groups.get(group, {})}
    takes_all = getattr(node_class, "ACCEPT_ALL_INPUTS", False)  # older ComfyUIs know no such nodes
    taken = inputs if takes_all else {name: each for name, each in inputs.items() if name in has}
    nested: Inputs = _io.build_nested_inputs(dict(given_lists(node_class, taken)), paths)
    return nested


def why_it_fails(class_type: str, inputs: Inputs, error: Exception) -> str:
    """Why a node fails; an error that is not written for people is in ComfyUI's log."""
    fault = unreadable_lora(inputs)
    if fault:
        return fault[1].rstrip(".")
    said = f"{error!s:.300}".rstrip(".")
    if said and isinstance(error, (ValueError, RuntimeError, OSError)):
        return f"{class_type} fails: {said}"
    log.info("%s fails in a plan: %s: %s", class_type, type(error).__name__, error)
    return f"{class_type} fails with these inputs, and ComfyUI's log says more"


def loads_models(function: Any) -> bool:
    """Whether a function of core's has ComfyUI load models."""
    return not {"load_model_gpu", "load_models_gpu"}.isdisjoint(function.__code__.co_names)


def with_planned_loading(function: Any) -> Callable[..., Any]:
    """The function with a loading of models that only components see, of which a plan is made."""

    def load(models: Any, *_: Any, **__: Any) -> None:
        for each in models if isinstance(models, list) else [models]:
            if isinstance(each, ComponentPatcher):
                each.load()

    names = {"load_model_gpu": load, "load_models_gpu": load, "loaded_models": lambda *_, **__: []}
    return with_names(function, {f"comfy.model_management.{name}": each for name, each in names.items()})


def is_ours(value: Any) -> bool:
    """Whether a value is or holds a model of this pack."""
    if isinstance(value, ValueList):
        return any(map(is_ours, value.values))
    if isinstance(value, comfy.samplers.CFGGuider):
        return is_ours(value.model_patcher)
    if isinstance(value, comfy.sd.VAE):
        return isinstance(value.first_stage_model, VAEModule)
    if component_parts(value):
        return True
    return isinstance(value if isinstance(value, ModelPatcher) else getattr(value, "patcher", None), ComponentPatcher)


def _is_executed(node_class: Any, inputs: Inputs) -> bool:
    makes = set(_output_types(node_class))
    return (
        _is_core(node_class)
        and not getattr(node_class, "OUTPUT_NODE", False)
        and not getattr(node_class, "API_NODE", False)
        and not inspect.iscoroutinefunction(getattr(node_class, node_class.FUNCTION))
        and (makes <= _MADE | _ANY or (makes <= _MADE | _FOUND and any(map(is_ours, inputs.values()))))
        and makes & {"CONTROL_NET"} <= set(_input_types(node_class).values())
    )


def _is_core(node_class: Any) -> bool:
    """Whether a node is ComfyUI's own."""
    module = getattr(node_class, "RELATIVE_PYTHON_MODULE", None) or node_class.__module__
    return bool(module == "nodes" or module.startswith("comfy_extras."))


def _assumed(node_class: Any, name: str, value: Any, inputs: Inputs, turn: NodeTurn) -> Any:
    """An input, or what an unknown one is planned with: a text at its longest, images and latents of a given size."""
    if not isinstance(value, Unknown):
        return value
    kind, size = _input_types(node_class, inputs).get(name), turn.unknown
    if kind == "STRING":
        turn.assumptions.append(f"a {name} of {value.tokens} tokens, as {value.why}")
        return "a " * (value.tokens - 2)
    vaes = [each for each in inputs.values() if isinstance(each, comfy.sd.VAE) and is_ours(each)]
    vae = next((each for each in vaes if each.latent_dim > 1), None)  # of pictures, not of sound
    takes = vae is not None or (kind == "IMAGE" and any(map(component_parts, inputs.values())))
    if kind not in ("IMAGE", "LATENT") or not takes or not (size.width and size.height):
        return value
    turn.assumptions.append(f"{size.batch} of {size.width} x {size.height} pixels, as {value.why}")
    if kind == "IMAGE":
        return unwritten_zeros((size.batch, size.height, size.width, 3))
    assert vae is not None
    ratio = vae.first_stage_model.ratio
    frames = (1,) if vae.latent_dim == 3 else ()
    shape = size.batch, vae.latent_channels, *frames, size.height // ratio, size.width // ratio
    return {"samples": unwritten_zeros(shape)}


def _passed_on(node_class: Any, inputs: Inputs, unknown: Unknown, turn: NodeTurn) -> Outputs:
    """The outputs of a node that changes nothing: each the next input of its type, or else unknown."""
    types = _input_types(node_class, inputs)
    makes = _output_types(node_class)
    for name, value in inputs.items():
        if is_ours(value) and types.get(name) not in makes:
            raise Unplanned(unknown.why)
    waiting: Mapping[str, deque[Any]] = defaultdict(deque)
    for name, value in inputs.items():
        waiting[types.get(name, "")].append(value)
    shows = _is_core(node_class) and getattr(node_class, "OUTPUT_NODE", False)
    kinds = set(makes) if shows else _PASSED_ON
    outputs = tuple(waiting[kind].popleft() if kind in kinds and waiting[kind] else unknown for kind in makes)
    if not shows and any(not isinstance(each, Unknown) for each in outputs):
        turn.assumptions.append(f"what passes through it unchanged, as {unknown.why}")
    return outputs


def _input_types(node_class: Any, given: Inputs = MappingProxyType({})) -> dict[str, str]:
    """The type of each input, by name; "" for a choice of texts. given: its inputs, of which some bring others."""
    return dict(_each_input(node_class, given))


def _each_input(node_class: Any, given: Inputs) -> Iterator[tuple[str, str]]:
    try:
        groups = node_class.INPUT_TYPES()
        if issubclass(node_class, io.ComfyNode):
            groups, _, _ = _io.get_finalized_class_inputs(groups, dict(given))
    except Exception:  # another pack's code
        return
    for group in ("required", "optional"):
        for name, described in (groups.get(group) or {}).items():
            kind = described[0] if isinstance(described, (tuple, list)) and described else ""
            yield name, kind if isinstance(kind, str) else ""


def _output_types(node_class: Any) -> tuple[str, ...]:
    return tuple(kind if isinstance(kind, str) else "COMBO" for kind in getattr(node_class, "RETURN_TYPES", None) or ())
