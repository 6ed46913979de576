"""A plan of objects followed through a video, beside what that then takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.pack import part

from ..parity.model_cases import randomize
from .plan_runners import runners_of_plans
from .test_seams_core_models import node
from .test_seams_detection import PLAIN, detector, narrow, small_pictures, tracker
from .test_seams_plan import DEVICES, ENOUGH, held, planned, taken

rules = part("nodes.planner.rules")
diffusion = part("nodes.loaders.diffusion")
dry_run, ggml = part("native.engines.dry_run"), part("native.engines.ggml")

from comfy.ldm.modules.attention import attention_pytorch  # noqa: E402
from comfy_extras.nodes_sam3 import SAM3_VideoTrack  # noqa: E402

import nodes as core  # noqa: E402

HEIGHT, WIDTH = 64, 48
# Each: frames, masks that are given, whether words are, and how many objects are followed at most.
CASES = {
    "one frame": (1, 1, False, 0),
    "masks": (4, 2, False, 0),
    "more frames than are remembered": (20, 1, False, 0),
    "more objects than are followed at once": (3, 17, False, 0),
    "words": (3, 0, True, 1),
    "masks and words": (3, 2, True, 2),
}
__all__ = ["small_pictures"]  # a fixture


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runners that compute and that plan, the first given."""
    with runners_of_plans(monkeypatch, ENOUGH >> 12) as real:
        yield real


@pytest.fixture
def given_shapes(monkeypatch: pytest.MonkeyPatch) -> dict[bool, set[Any]]:
    """The methods of models that were called, each with the shapes that it was given, by whether that was planned."""
    found: dict[bool, set[Any]] = {False: set(), True: set()}

    def noting(run: Any) -> Any:
        def noted(self: Any, key: Any, function: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            shapes = tuple((name, tuple(x.shape)) for name, x in inputs.items())
            found[isinstance(self, dry_run.DryRunModel)].add((key[0], shapes))
            return run(self, key, function, inputs, *args, **kwargs)

        return noted

    for kind in (dry_run.DryRunModel, ggml.GgmlModel):
        monkeypatch.setattr(kind, "run", noting(kind.run))
    return found


@pytest.mark.turns(3)
@pytest.mark.parametrize("case", CASES)
def test_planned_is_what_is_taken(
    case: str,
    runner: Any,
    given_shapes: dict[bool, set[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count, given, by_words, limit = CASES[case]
    for module in (detector, tracker):
        monkeypatch.setattr(module, "optimized_attention", attention_pytorch)
    for known, place in (("SAM3_VideoTrack", "sam3"), ("PreviewAny", "preview_any")):
        monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, known, node(f"comfy_extras.nodes_{place}:{known}"))
    with narrow.beside_narrowed():
        tensors = randomize(detector.SAM3Model(image_model="SAM31", **PLAIN)).state_dict()
    save_file({name: x.clone().contiguous() for name, x in tensors.items()}, tmp_path / "model.safetensors")
    monkeypatch.setattr(diffusion, "model_path", lambda _folder, name: str(tmp_path / name))
    source = torch.Generator().manual_seed(5)
    pictures = torch.rand(count, HEIGHT, WIDTH, 3, generator=source)
    masks = (torch.rand(given, HEIGHT, WIDTH, generator=source) > 0.5).float() if given else None
    words = [[torch.randn(1, 9, 1024, generator=source), {}]] if by_words else None
    monkeypatch.setitem(rules.RULES, "Given", rules.PlannedNode("", lambda *_: (pictures, masks, words)))
    linked = {"initial_mask": ["2", 1], "conditioning": ["2", 2]}
    settings = {"detection_threshold": 0.0, "max_objects": limit, "detect_interval": 1}
    prompt = {
        "1": {"class_type": "GGMLDiffusionModel",
              "inputs": {"model_name": "model.safetensors", "device": "CPU", "weights": "auto", "engine": "ggml",
                         "budget": 0}},
        "2": {"class_type": "Given", "inputs": {}},
        "3": {"class_type": "SAM3_VideoTrack",
              "inputs": {"images": ["2", 0], "model": ["1", 0], **linked, **settings}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }  # fmt: skip
    with narrow.beside_narrowed(), torch.inference_mode():
        plan = planned(prompt, ENOUGH >> 12).plan
        assert plan.shortage is None, plan.shortage
        assert plan.gaps == ()
        assert len(plan.notes) == by_words
        (model,) = diffusion.GGMLDiffusionModel.execute(**prompt["1"]["inputs"]).result
        track = SAM3_VideoTrack.execute(pictures, model, masks, words, **settings).result[0]
    assert track["packed_masks"].shape[:2] == (count, max(given, limit))
    assert given_shapes[False]
    assert given_shapes[False] <= given_shapes[True]
    memory = runner.memory()
    most = {each: max(phase.peak[each] for phase in plan.phases) for each in DEVICES}
    assert most == {each.name: each.peak for each in memory.devices}
    assert [taken(each) for each in held(plan.phases[-1])] == [taken(each) for each in memory.models]
