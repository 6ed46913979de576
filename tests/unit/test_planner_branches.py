"""The planner follows of a node's branches those that ComfyUI evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pack import part

other_nodes = part("nodes.planner.other_nodes")
unknown = part("nodes.planner.unknown")

from comfy.model_patcher import ModelPatcher  # noqa: E402
from comfy_extras import nodes_images, nodes_lt, nodes_rebatch  # noqa: E402

import nodes as core  # noqa: E402


class Switch:
    """As ComfySwitchNode, in the older schema."""

    FUNCTION, RETURN_TYPES = "choose", ("*",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        branch = ("*", {"lazy": True})
        return {"required": {"switch": ("BOOLEAN", {}), "on_false": branch, "on_true": branch}}

    def check_lazy_status(self, switch: bool, on_false: Any = None, on_true: Any = None) -> list[str]:
        return ["on_true"] if switch else ["on_false"]


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The inputs of a switch, and the links that were followed for them."""
    monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, "Switch", Switch)

    def follow(switch: Any) -> tuple[dict[str, Any], list[str]]:
        asked: list[str] = []

        def value(each: Any) -> Any:
            if not isinstance(each, list):
                return each
            asked.append(each[0])
            return unknown.Unknown("it is not known") if each[0] == "unknown" else f"of {each[0]}"

        given = {"switch": switch, "on_false": ["left", 0], "on_true": ["right", 0]}
        return other_nodes.needed_inputs("Switch", given, value, lambda each: isinstance(each, list)), asked

    return follow


@pytest.mark.parametrize(("switch", "taken", "other"), [(True, "right", "on_false"), (False, "left", "on_true")])
def test_the_branch_that_is_not_taken_is_not_followed(followed: Any, switch: bool, taken: str, other: str) -> None:
    inputs, asked = followed(switch)
    assert asked == [taken]
    assert inputs[other] is None
    assert f"of {taken}" in inputs.values()


def test_an_unknown_switch_follows_both(followed: Any) -> None:
    inputs, asked = followed(["unknown", 0])
    assert sorted(asked) == ["left", "right", "unknown"]
    assert isinstance(inputs["switch"], unknown.Unknown)


def test_a_node_of_settings_alone_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy_extras.nodes_camera_trajectory import WanCameraEmbedding

    monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, "WanCameraEmbedding", WanCameraEmbedding)
    inputs = {"camera_pose": "Zoom In", "width": 64, "height": 48, "length": 9}
    turn = unknown.NodeTurn(None, unknown.Size())
    embedding, *sizes = other_nodes.follow("WanCameraEmbedding", inputs, False, turn)
    assert embedding.shape[-2:] == (48, 64)
    assert sizes == [64, 48, 9]


def test_a_choice_is_a_file_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from comfy_extras.nodes_wanmove import GenerateTracks

    monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, "GenerateTracks", GenerateTracks)
    monkeypatch.setattr("folder_paths.get_input_directory", lambda: str(tmp_path))
    numbers = {"start_x": 0.0, "start_y": 0.0, "mid_x": 0.5, "mid_y": 0.5, "end_x": 1.0, "end_y": 1.0}
    counts = {"width": 64, "height": 48, "num_frames": 9, "num_tracks": 2, "track_spread": 0.1, "bezier": False}
    inputs = {**numbers, **counts, "interpolation": "linear"}
    turn = unknown.NodeTurn(None, unknown.Size())
    tracks, length = other_nodes.follow("GenerateTracks", inputs, False, turn)
    assert tracks["track_path"].shape == (9, 2, 2)
    assert length == 9
    (tmp_path / "linear").touch()
    assert other_nodes.follow("GenerateTracks", inputs, False, turn)[0].foreign


@pytest.mark.parametrize("name", ["taesd", "pixel_space"])
def test_a_model_is_read_from_a_file_by_any_name(name: str) -> None:
    turn = unknown.NodeTurn(None, unknown.Size())
    assert other_nodes.follow("VAELoader", {"vae_name": name}, False, turn)[0].foreign


def test_what_a_lora_says_of_itself_is_read_from_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, "GetICLoRAParameters", nodes_lt.GetICLoRAParameters)
    nodes_lt.GetICLoRAParameters.GET_SCHEMA()
    patcher = ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    patcher.set_attachments("lora_metadata", {"reference_downscale_factor": "2"})
    (said,) = other_nodes.follow("GetICLoRAParameters", {"iclora_model": patcher}, True, None)
    assert said == {"reference_downscale_factor": 2}


class TakesAll:
    """Takes and makes lists, in the older schema."""

    FUNCTION, RETURN_TYPES, RELATIVE_PYTHON_MODULE = "take", ("INT", "IMAGE", "INT"), "nodes"
    INPUT_IS_LIST, OUTPUT_IS_LIST = True, (False, True, True)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",), "count": ("INT", {})}}

    def take(self, images: list[torch.Tensor], count: list[int]) -> Any:
        return len(images), images, list(range(count[0]))


def test_a_node_is_executed_for_each_value_of_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ComfyUI does it: the last of a shorter list counts again, and a list of one is that one."""
    for node in (nodes_images.ImageFromBatch, nodes_rebatch.ImageRebatch, nodes_images.ImageStitch):
        monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
    monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, "TakesAll", TakesAll)

    def node(class_type: str, **inputs: Any) -> Any:
        return {"class_type": class_type, "inputs": inputs}

    stitch = {"direction": "right", "match_image_size": False, "spacing_width": 0, "spacing_color": "white"}
    prompt = {
        "five": node("EmptyImage", width=64, height=48, batch_size=5, color=0),
        "pairs": node("RebatchImages", images=["five", 0], batch_size=2),
        "first": node("ImageFromBatch", image=["pairs", 0], batch_index=0, length=2),
        "all": node("TakesAll", images=["first", 0], count=2),
        "one": node("TakesAll", images=["five", 0], count=0),
        "wide": node("ImageStitch", image1=["all", 1], image2=["one", 1], **stitch),
        "seen": node("See", wide=["wide", 0], pairs=["all", 0], numbers=["all", 2], lone=["one", 0], none=["one", 2]),
    }
    seen = part("nodes.planner.walk").inputs_of(prompt, "seen", part("native.planning").Machine((), {}))
    assert [tuple(each.shape[:3]) for each in seen["wide"].values] == [(5, 48, 128)] * 3
    assert (seen["pairs"], seen["numbers"].values, seen["lone"]) == (3, (0, 1), 1)
    assert "empty" in seen["none"].why
