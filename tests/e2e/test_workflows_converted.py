"""Workflows with loaders of others, run and planned on GGML: by extra_data, by the user's setting, by plan.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.comfy_server import Client, Refused, Workflow, changed, node_id, workflow
from tests.pack import ROOT

SETTING = "GGML.Convert.Always"


def foreign() -> Workflow:
    """The template with a loader of core's, and loaders of packs that are not installed."""
    graph = changed(workflow("text_to_image"), {"EmptySD3LatentImage": {"width": 64, "height": 64}})
    unet, clip, vae = (node_id(graph, kind) for kind in ("GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE"))
    encoders = graph[clip]["inputs"]
    graph[unet] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "flux1-schnell-micro-fp8_e4m3fn.safetensors", "weight_dtype": "fp8_e4m3fn"},
    }
    graph[clip] = {
        "class_type": "DualCLIPLoaderGGUF",
        "inputs": {"clip_name1": encoders["clip_name1"], "clip_name2": encoders["clip_name2"], "type": "flux"},
    }
    graph[vae] = {
        "class_type": "VAELoaderMultiGPU",
        "inputs": {"vae_name": graph[vae]["inputs"]["vae_name"], "device": "cuda:0"},
    }
    return graph


def ours() -> Workflow:
    """The same by hand."""
    graph = changed(workflow("text_to_image"), {"EmptySD3LatentImage": {"width": 64, "height": 64}})
    graph = changed(graph, {"GGMLDiffusionModel": {"model_name": "flux1-schnell-micro-fp8_e4m3fn.safetensors"}})
    return changed(graph, {kind: {"device": "auto"} for kind in ("GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE")})


def told(client: Client, prompt: str) -> Any:
    """The report on a prompt's conversion in the history."""
    return client.get(f"/history/{prompt}")[prompt]["prompt"][3]["ggml"]


@pytest.fixture
def setting_on(comfyui: Client) -> Iterator[None]:
    comfyui.send("/settings", {SETTING: True})
    yield
    comfyui.send("/settings", {SETTING: False})


def test_a_caller_asks_for_it_and_gets_the_picture_of_our_nodes(comfyui: Client) -> None:
    graph = foreign()
    with pytest.raises(Refused):
        comfyui.queue(graph)
    prompt = comfyui.queue(graph, ggml={"convert": True})
    (picture,) = comfyui.pictures(comfyui.wait(prompt))
    assert np.array_equal(picture, comfyui.draw(ours()))
    report = told(comfyui, prompt)
    assert {each["from"]: each["to"] for each in report["converted"]} == {
        "UNETLoader": "GGMLDiffusionModel",
        "DualCLIPLoaderGGUF": "GGMLTextEncoders",
        "VAELoaderMultiGPU": "GGMLVAE",
    }
    assert report["kept"] == []
    notes = {each["from"]: each["notes"] for each in report["converted"]}
    assert "the placement is auto" in notes["VAELoaderMultiGPU"][0]
    assert "weight_dtype fp8_e4m3fn is left out" in notes["UNETLoader"][0]


@pytest.mark.usefixtures("setting_on")
def test_the_setting_converts_what_does_not_say_otherwise(comfyui: Client) -> None:
    graph = foreign()
    prompt = comfyui.queue(changed(graph, {"SaveImage": {"filename_prefix": "by_setting"}}))
    comfyui.wait(prompt)
    assert len(told(comfyui, prompt)["converted"]) == 3
    with pytest.raises(Refused):
        comfyui.queue(graph, ggml={"convert": False})


@pytest.mark.parametrize(
    ("asked", "why"),
    [({"convert": "yes"}, "extra_data.ggml.convert is 'yes'; it must be true or false"), ("all", "must be an object")],
)
def test_what_cannot_be_understood_is_refused(comfyui: Client, asked: Any, why: str) -> None:
    with pytest.raises(Refused, match=why):
        comfyui.queue(foreign(), ggml=asked)


def test_it_is_planned_as_it_will_run(comfyui: Client) -> None:
    answer = comfyui.send("/ggml/plan", {"prompt": foreign(), "convert": True})
    by_hand: Any = comfyui.send("/ggml/plan", {"prompt": ours()})
    assert len(answer["conversion"]["converted"]) == 3
    for key in ("fits", "phases", "notes", "advice"):
        assert answer[key] == by_hand[key]
    assert "conversion" not in by_hand
    with pytest.raises(Refused, match="convert is true or false"):
        comfyui.send("/ggml/plan", {"prompt": foreign(), "convert": "yes"})


def test_a_planner_in_the_workflow_plans_what_will_run(comfyui: Client) -> None:
    graph = foreign()
    links = {"model": "UNETLoader", "clip": "DualCLIPLoaderGGUF", "vae": "VAELoaderMultiGPU"}
    planner = {name: [node_id(graph, kind), 0] for name, kind in links.items()}
    graph["99"] = {"class_type": "GGMLMemoryPlanner", "inputs": {**planner, "ram_budget": 1, "mode": "reject"}}
    with pytest.raises(Refused, match="does not fit"):
        comfyui.queue(graph, ggml={"convert": True})


def test_a_prompt_and_a_graph_are_converted_for_whoever_asks(comfyui: Client) -> None:
    graph = foreign()
    answer = comfyui.send("/ggml/convert", {"prompt": graph})
    assert {node["class_type"] for node in answer["prompt"].values()} >= {"GGMLDiffusionModel", "GGMLVAE"}
    assert len(answer["converted"]) == 3
    drawn = {"nodes": [{"id": 1, "type": "VAELoader", "widgets_values": ["ae-micro.safetensors"]}], "links": []}
    answer = comfyui.send("/ggml/convert", {"workflow": drawn})
    assert answer["workflow"]["nodes"][0]["type"] == "GGMLVAE"
    for damaged in ({"workflow": {"nodes": [{}]}}, {"prompt": {}}, {}):
        with pytest.raises(Refused):
            comfyui.send("/ggml/convert", damaged)


def test_plan_py_converts(comfyui: Client, tmp_path: Path) -> None:
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(foreign()), encoding="utf-8")
    base = comfyui.server.output.parent
    folders = ["--base-directory", str(base), "--extra-model-paths-config", str(base / "models.yaml")]
    command = [sys.executable, str(ROOT / "plan.py"), str(file), "--json", "--convert", "--", *folders]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert len(answer["conversion"]["converted"]) == 3
    assert [phase["title"] for phase in answer["phases"]] == ["Encoding the prompt", "Sampling", "Decoding the picture"]
