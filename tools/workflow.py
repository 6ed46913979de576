"""A workflow in API format, with the choices of a command line put into the nodes they belong to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from .steps import Failure

Workflow = dict[str, dict[str, Any]]

# choice -> class of node -> the inputs of it that take the choice
INPUTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "device": {"GGMLDiffusionModel": ("device",)},
    "prompt": {"CLIPTextEncode": ("text",), "CLIPTextEncodeFlux": ("clip_l", "t5xxl")},
    "width": {"EmptyLatentImage": ("width",), "EmptySD3LatentImage": ("width",), "ModelSamplingFlux": ("width",)},
    "height": {"EmptyLatentImage": ("height",), "EmptySD3LatentImage": ("height",), "ModelSamplingFlux": ("height",)},
    "seed": {"KSampler": ("seed",), "KSamplerAdvanced": ("noise_seed",), "RandomNoise": ("noise_seed",)},
}


def with_choices(workflow: Workflow, choices: Mapping[str, object]) -> Workflow:
    """A copy of the workflow with each choice that is not None in it; raises Failure when it has no place for one.

    An empty text stays empty: it is the negative prompt.
    """
    result = copy.deepcopy(workflow)
    for choice, value in choices.items():
        if value is None:
            continue
        places = [
            (node["inputs"], name)
            for node in result.values()
            for name in INPUTS[choice].get(node["class_type"], ())
            if takes_value(node["inputs"].get(name))
        ]
        if not places:
            classes = " or ".join(INPUTS[choice])
            raise Failure(f"this workflow has no {classes} node whose {choice} could be set", "leave that option out")
        for inputs, name in places:
            inputs[name] = value
    return result


def takes_value(present: object) -> bool:
    """Whether an input holds a value of its own: not a link to another node, not an empty text, not absent."""
    return present not in (None, "") and not isinstance(present, list)


def title(workflow: Workflow, node: str) -> str:
    """A node's title as the editor shows it."""
    entry = workflow.get(node, {})
    return str(entry.get("_meta", {}).get("title") or entry.get("class_type") or node)
