"""Templates opened, converted, and planned for a card, with files of the real size and structure over zeros."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests import pack

from . import host, inputs
from .files import write_hollow
from .packages import Template, nodes_of

CARDS = ("RX 580 8 GB, Linux", "RTX 3060 12 GB, Windows")
_MIB = 1 << 20
_SHOWN = {"IMAGE", "VIDEO", "AUDIO"}
_NONE = "none"  # in the place of a plan that could not be made
Prompt = dict[str, Any]


@dataclass
class Result:
    """How far a template came. equal: dB between ours and core's.

    plans: what a card's plan says, by its name; of a card that it was not planned for there is none.
    """

    name: str
    opened: bool = False
    converted: bool = False
    planned: bool = False
    run: bool | None = None  # None: not tried
    equal: float | None = None
    why: list[str] = field(default_factory=list)
    plans: dict[str, str] = field(default_factory=dict)

    def leave_out(self, *folders: Path) -> None:
        """Names files in what is wrong without these folders, which are those of one machine."""
        for folder in folders:
            self.why = [each.replace(f"{folder}{os.sep}", "") for each in self.why]

    def keep_plans(self, before: Result) -> None:
        """Take over the plans that were made before, and why what they lack is not in them."""
        self.plans, self.planned = before.plans, before.planned
        if before.plans and not before.planned:
            self.why = list(dict.fromkeys([*self.why, *before.why]))

    @staticmethod
    def of_json(said: dict[str, Any]) -> Result:
        """As the command wrote it."""
        why = [each for each in said["why"].split("; ") if each]
        return Result(**{**said, "why": why})

    def to_json(self) -> dict[str, Any]:
        """As the command writes it."""
        return {
            "name": self.name, "opened": self.opened, "converted": self.converted, "planned": self.planned,
            "run": self.run, "equal": self.equal, "why": "; ".join(self.why), "plans": self.plans,
        }  # fmt: skip


def opened(template: Template, result: Result) -> Prompt | None:
    """The prompt of a template, all nodes of which this ComfyUI has; None where it cannot be opened."""
    import nodes as core

    files = pack.part("nodes.planner.workflow_file")
    try:
        prompt: Prompt = dict(files.prompt_of(template.content))
    except files.WorkflowError as error:
        result.why.append(str(error))
        return None
    unknown = sorted({node["class_type"] for node in prompt.values()} - set(core.NODE_CLASS_MAPPINGS))
    others = sorted({node["type"] for node in nodes_of(template.content) if "+" in node["type"]} - set(unknown))
    if unknown or others:
        result.why.append(f"it has nodes of other packs, or of a newer ComfyUI: {', '.join((*unknown, *others))}")
    result.opened = not unknown and not others
    named = {value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)}
    if named.isdisjoint(name for _, name in template.files_of(prompt)):
        result.why.append("the nodes with its models are bypassed, until its user turns them on")
    return inputs.painted(with_output(prompt)) if result.opened else None


def with_output(prompt: Prompt) -> Prompt:
    """The prompt; one that leaves its last link to its user, as lessons do, with what it ends in shown."""
    import nodes as core

    classes = {key: core.NODE_CLASS_MAPPINGS[node["class_type"]] for key, node in prompt.items()}
    if any(getattr(each, "OUTPUT_NODE", False) for each in classes.values()):
        return prompt
    taken = {value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)}
    ends = [key for key, each in classes.items() if key not in taken and set(each.RETURN_TYPES[:1]) & _SHOWN]
    return {**prompt, **{f"shown {key}": {"class_type": "PreviewAny", "inputs": {"source": [key, 0]}} for key in ends}}


def converted(prompt: Prompt, result: Result) -> Prompt:
    """The prompt with our loaders; the result says which stayed core's."""
    changed, report = pack.part("nodes.conversion.convert").convert(prompt)
    result.converted = bool(report.converted) and not report.kept
    result.why += dict.fromkeys(f"{each.class_type} {each.why}".removesuffix(".") for each in report.kept)
    return dict(changed)


def plan(template: Template, folder: Path, cards: Sequence[str] = CARDS) -> Result:
    """Opens, converts and plans a template for each card. folder: of models and inputs, which are kept there."""
    host.start()
    host.use_folders(folder / "models", folder / "input")
    result = Result(template.name)
    prompt = opened(template, result)
    if prompt is None:
        return result
    result.why += write_hollow(folder / "models", template.files_of(prompt)).values()
    inputs.write_inputs(prompt, folder / "input", _size(prompt))
    host.use_folders(folder / "models", folder / "input")
    prompt = converted(prompt, result)
    with _islands() as islands:
        verdicts = [_planned(prompt, card, result) for card in cards]
    for where in dict.fromkeys(islands):
        result.why.append(f"an island: {where}")
    result.planned = bool(verdicts) and all(verdicts) and not islands
    result.why = list(dict.fromkeys(result.why))
    return result


def _size(prompt: Prompt) -> inputs.Size:
    """Pixels of what is loaded, as large as models for it take."""
    video = any(node["class_type"] == "LoadVideo" for node in prompt.values())
    return inputs.Size(832, 480) if video else inputs.Size()


def _planned(prompt: Prompt, card: str, result: Result) -> bool:
    """Whether all of a prompt is planned for a card; what the plan says goes to the result."""
    planner, request = pack.part("nodes.planner.planner"), pack.part("nodes.planner.request")
    size = _size(prompt)
    asked = request.PlanRequest(profile=request.profile_named(card))
    unknown = pack.part("nodes.planner.unknown").Size(size.width, size.height, 1)
    try:  # without the search for advice, which plans a workflow that does not fit a dozen times
        found = planner._plan(prompt, planner._started(), request.machine_of(asked), unknown, None)
    except Exception as error:  # the yardstick is there to find them
        result.why.append(f"{type(error).__name__}: {error}")
        result.plans[card] = _NONE
        return False
    result.why += found.gaps
    if not found.phases and found.shortage is None:
        result.why.append("no model of it is computed by this pack")
        result.plans[card] = _NONE
        return False
    result.plans[card] = _cell(found)
    cannot = found.shortage is not None and not found.shortage.over  # an operation that the card has not
    return not found.gaps and not cannot


def _cell(found: Any) -> str:
    """MiB of the card and of RAM, or what is lacking."""
    if found.shortage is not None:
        short = found.shortage
        lacking = f"{short.over / _MIB:,.0f} MiB of {short.device}" if short.over else short.message
        return f"{short.title} lacks {lacking}"
    gpu, ram = (round(found.peaks.get(device, 0) / _MIB) for device in ("Vulkan0", "CPU"))
    return f"{gpu:,} + {ram:,} MiB"


@contextmanager
def _islands() -> Iterator[list[str]]:
    """The islands of diffusion models that are lowered within it, in words."""
    ggml = pack.part("native.engines.ggml").GgmlModel
    original, found = ggml.lowered, []

    def lowered(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(self, *args, **kwargs)
        if self.weights.name.endswith("diffusion model"):
            found.extend(
                f"{island.operation} in {self.weights.name}, {island.module_path}"
                for part in made.parts
                for island in part.islands
            )
        return made

    with patch.object(ggml, "lowered", lowered):
        yield found
