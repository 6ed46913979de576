"""Plans of workflows that estimate geometry, draw frames or find motion, beside what they then take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pack import part

from .geometry_kinds import DEPTH, FRAMES, MOGE, MOTION, VIEWS
from .plan_runners import runners_of_plans
from .test_seams_core_models import node, written
from .test_seams_geometry import PLACES, run, small_and_in_float32
from .test_seams_plan import DEVICES, ENOUGH, held, planned, taken

import nodes as core  # isort: skip

MOGE_INPUTS = {
    "resolution_level": 0, "fov_x_degrees": 60.0, "batch_size": 2, "force_projection": True, "apply_mask": False,
}  # fmt: skip
DA3 = {"resolution": 84, "resize_method": "upper_bound_resize"}
VIEW = {"ref_view_strategy": "saddle_balanced", "pose_method": "cam_dec"}
# Each: kind, node, its inputs for the model and for pictures, the rest, and the count of these.
CASES = {
    "MoGe 2": (MOGE[1], "MoGeInference", "moge_model", "image", MOGE_INPUTS, 3),
    "pictures": (DEPTH, "DA3Inference", "da3_model", "image", DA3 | {"mode": "mono"}, 2),
    "views": (VIEWS, "DA3Inference", "da3_model", "image",
              DA3 | {"mode": "multiview", **{f"mode.{name}": value for name, value in VIEW.items()}}, 3),
    "FILM": (FRAMES[0], "FrameInterpolate", "interp_model", "images", {"multiplier": 3}, 3),
    "RIFE": (FRAMES[1], "FrameInterpolate", "interp_model", "images", {"multiplier": 3}, 3),
    "RAFT": (MOTION, "VOIDWarpedNoise", "optical_flow", "video",
             {"width": 264, "height": 272, "length": 8, "batch_size": 1}, 3),
}  # fmt: skip
ON_CPU = ("RAFT",)  # alone: its twelve rounds take minutes on a Vulkan of software
PLACED = [
    (case, *place)
    for case in CASES
    for place in (("CPU", "auto"), ("Vulkan0", "device"))
    if case not in ON_CPU or place[0] == "CPU"
]
SIZE = 70, 84

__all__ = ["small_and_in_float32"]  # a fixture


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runners that compute and that plan, the first given."""
    with runners_of_plans(monkeypatch, ENOUGH >> 12) as real:
        yield real


def called(class_type: str, model: Any, inputs: dict[str, Any], count: int) -> None:
    """The node in ComfyUI, with what belongs to a choice in it."""
    given = {name: value for name, value in inputs.items() if "." not in name}
    if class_type == "DA3Inference":
        given["mode"] = {"mode": given["mode"], **VIEW}
    run(class_type, model, torch.rand(count, *SIZE, 3), **given)


@pytest.mark.turns(3)
@pytest.mark.parametrize(("case", "device", "residency"), PLACED)
def test_planned_is_what_is_taken(
    case: str, device: str, residency: str, runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, class_type, model_input, pictures, inputs, count = CASES[case]
    name = written(replace(kind), tmp_path, monkeypatch)
    for known, place in ((class_type, PLACES[class_type]), ("PreviewAny", "preview_any")):
        made = node(f"comfy_extras.nodes_{place}:{known}")
        monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, known, made)
        if hasattr(made, "GET_SCHEMA"):
            made.GET_SCHEMA()
    place = {"device": device, "weights": residency, "engine": "ggml", "budget": 0}
    module, _, node_id = kind.ours.partition(":")
    prompt = {
        "1": {"class_type": node_id, "inputs": {kind.file: name, **place}},
        "2": {"class_type": "EmptyImage",
              "inputs": {"width": SIZE[1], "height": SIZE[0], "batch_size": count, "color": 0}},
        "3": {"class_type": class_type, "inputs": {model_input: ["1", 0], pictures: ["2", 0], **inputs}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }  # fmt: skip
    with kind.small(), torch.inference_mode():
        plan = planned(prompt, ENOUGH >> 12).plan
        assert plan.shortage is None, plan.shortage
        assert plan.gaps == plan.notes == ()
        loader = getattr(part(f"nodes.loaders.{module}"), node_id)
        called(class_type, loader.execute(**prompt["1"]["inputs"]).result[0], inputs, count)  # type: ignore[index]
    memory = runner.memory()
    most = {each: max(phase.peak[each] for phase in plan.phases) for each in DEVICES}
    assert most == {each.name: each.peak for each in memory.devices}
    assert [taken(model) for model in held(plan.phases[-1])] == [taken(model) for model in memory.models]
