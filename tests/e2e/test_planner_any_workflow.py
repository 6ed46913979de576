"""Plans of workflows that are not the templates: other nodes, sizes, orders, files and inputs; the verdict is true."""

from __future__ import annotations

import json
import struct
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.comfy_server import Client, Refused, Workflow, changed, node_id, workflow
from tests.e2e.test_planner import PLANNER, planned

LATENT = "EmptySD3LatentImage"


def plan(client: Client, graph: Workflow, **inputs: Any) -> Any:
    return client.send("/ggml/plan", {"prompt": graph, **inputs})


def titles(told: Any) -> list[str]:
    return [phase["title"] for phase in told["phases"]]


@pytest.mark.parametrize(("side", "batch"), [(1024, 8), (2048, 2)])
def test_large_jobs_are_planned(planning: Client, side: int, batch: int) -> None:
    size = {LATENT: {"width": side, "height": side, "batch_size": batch}}
    told = plan(planning, changed(workflow("text_to_image"), size))
    assert titles(told) == ["Encoding the prompt", "Sampling", "Decoding the picture"]
    assert told["fits"]


def test_two_large_samplers_and_a_long_prompt(planning: Client) -> None:
    graph = changed(workflow("text_to_image"), {"CLIPTextEncode": {"text": "word " * 3000}})
    sampler = node_id(graph, "KSampler")
    for number, side in enumerate((1024, 1280)):
        graph[f"7{number}"] = {
            "class_type": LATENT, "inputs": {"width": side, "height": side, "batch_size": 3},
        }  # fmt: skip
        graph[f"8{number}"] = {
            "class_type": "KSampler", "inputs": {**graph[sampler]["inputs"], "latent_image": [f"7{number}", 0]},
        }  # fmt: skip
        graph[f"9{number}"] = {
            "class_type": "PreviewImage",
            "inputs": {"images": [f"6{number}", 0]},
        }
        graph[f"6{number}"] = {
            "class_type": "VAEDecode", "inputs": {"samples": [f"8{number}", 0], "vae": [node_id(graph, "GGMLVAE"), 0]},
        }  # fmt: skip
    told = plan(planning, graph)
    assert told["fits"], told["verdict"]
    assert sorted(titles(told)) == sorted(["Encoding the prompt", *["Sampling", "Decoding the picture"] * 3])


def between(graph: Workflow, class_type: str, **inputs: Any) -> Workflow:
    """The workflow with a node between the diffusion model and all that it goes to."""
    source = [node_id(graph, "GGMLDiffusionModel"), 0]
    for node in graph.values():
        node["inputs"] |= {name: ["70", 0] for name, value in node["inputs"].items() if value == source}
    return {**graph, "70": {"class_type": class_type, "inputs": {"model": source, **inputs}}}


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("DifferentialDiffusion", {}),
        ("ModelSamplingAuraFlow", {"shift": 1.7}),
        ("RescaleCFG", {"multiplier": 0.7}),
        ("ModelSamplingSD3", {"shift": 3.0}),
    ],
)
def test_nodes_of_comfyui_between_are_executed(planning: Client, class_type: str, inputs: dict[str, Any]) -> None:
    told = plan(planning, between(workflow("text_to_image"), class_type, **inputs))
    assert "Sampling" in titles(told)
    assert told["fits"]
    assert told["notes"] == []


def test_a_node_that_shows_what_it_is_given_passes_it_on(planning: Client) -> None:
    """A mask is previewed on its way into the latent."""
    graph = workflow("text_to_image")
    sampler = graph[node_id(graph, "KSampler")]["inputs"]
    graph["70"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}}
    graph["71"] = {"class_type": "MaskPreview", "inputs": {"mask": ["70", 0]}}
    graph["72"] = {
        "class_type": "SetLatentNoiseMask", "inputs": {"samples": sampler["latent_image"], "mask": ["71", 0]},
    }  # fmt: skip
    sampler["latent_image"] = ["72", 0]
    told = plan(planning, graph)
    assert "Sampling" in titles(told)
    assert told["notes"] == []


def test_what_is_unknown_passes_on_and_is_said(planning: Client) -> None:
    """A ControlNet's file is not read for a plan: the verdict stands with what was assumed beside it."""
    graph = workflow("text_to_image")
    sampler = graph[node_id(graph, "KSampler")]["inputs"]
    graph["70"] = {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "canny.safetensors"}}
    graph["71"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
    graph["72"] = {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {
            "positive": sampler["positive"], "negative": sampler["negative"], "control_net": ["70", 0],
            "image": ["71", 0], "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0,
        },
    }  # fmt: skip
    sampler |= {"positive": ["72", 0], "negative": ["72", 1]}
    told = plan(planning, graph)
    assert "Sampling" in titles(told)
    assert told["notes"] == [
        (
            "ControlNetApplyAdvanced (node 72) is planned with what passes through it unchanged, "
            "as ControlNetLoader reads it from a file of its own."
        )
    ]


def test_a_gap_is_no_fit(planning: Client) -> None:
    """Sampling at a size that nothing can have: neither the API nor the mode reject takes that for a fit."""
    graph = changed(planned(), {LATENT: {"width": 1 << 40}})
    told = plan(planning, graph)
    sampler = node_id(graph, "KSampler")
    assert told["verdict"].startswith(f"Whether the workflow fits is not known: KSampler (node {sampler}) is not in")
    assert not told["fits"]
    graph = planned()
    graph["70"] = {"class_type": "LatentUpscale", "inputs": {
        "samples": graph[sampler]["inputs"]["latent_image"], "upscale_method": "bilinear", "width": 16384,
        "height": 16384, "crop": "disabled",
    }}  # fmt: skip
    graph["71"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["70", 0], "amount": 64}}
    graph[sampler]["inputs"]["latent_image"] = ["71", 0]
    with pytest.raises(Refused, match="choose the mode warn") as caught:
        planning.queue(graph)
    assert "GiB" in caught.value.said(PLANNER)


def test_what_comfyui_refuses_itself_is_its_own(planning: Client) -> None:
    """A LoRA that is not there is a gap, and ComfyUI names the node better."""
    graph = planned("lora")
    loader = node_id(graph, "LoraLoader")
    graph[loader]["inputs"]["lora_name"] = "none.safetensors"
    assert not plan(planning, graph)["fits"]
    with pytest.raises(Refused) as caught:
        planning.queue(graph)
    assert list(caught.value.node_errors) == [loader]


def test_phases_stand_in_the_order_in_which_comfyui_executes(planning: Client) -> None:
    graph = changed(planned("image_to_image"), {"KSampler": {"cfg": 2.0, "seed": 8}})
    sampler = graph[node_id(graph, "KSampler")]["inputs"]
    first = node_id(graph, "CLIPTextEncode")
    graph["5"] = {"class_type": "CLIPTextEncode", "inputs": {**graph[first]["inputs"], "text": "blurred"}}
    sampler["negative"] = ["5", 0]
    executed = [data["node"] for kind, data in planning.follow(graph) if kind == "executing" and data["node"]]
    phases = [phase["node"] for phase in plan(planning, graph)["phases"]]
    assert len(phases) == 5
    assert phases == [node for node in executed if node in phases]


def test_smaller_files_that_are_other_models_are_no_advice(planning: Client) -> None:
    """Neither do they end the plan: it is refused for want of memory, and no such file is advised."""
    folder = planning.server.output.parent / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    files = {
        "00-other.safetensors": struct.pack("<Q", len(header)) + header + bytes(4),
        "00-damaged.gguf": b"GGUF" + bytes(40),
        "00-cut.safetensors": bytes(7),
    }
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with pytest.raises(Refused, match="does not fit") as caught:
            planning.queue(planned(ram_budget=1))
        assert not any(name in str(caught.value) for name in files)
        report = planning.run(planned(mode="warn", ram_budget=1)).outputs[PLANNER]["text"][0]
        assert "does not fit" in report
    finally:
        for name in files:
            (folder / name).unlink()


@pytest.mark.parametrize("budget", ["1", 1.0])
def test_budgets_in_other_forms_count(planning: Client, budget: Any) -> None:
    with pytest.raises(Refused, match="does not fit"):
        planning.queue(planned(ram_budget=budget))


def test_a_linked_budget_counts(planning: Client) -> None:
    graph = planned(ram_budget=["70", 0])
    graph["70"] = {"class_type": "PrimitiveInt", "inputs": {"value": 1}}
    with pytest.raises(Refused, match="does not fit"):
        planning.queue(graph)
    assert planning.run(changed(graph, {"PrimitiveInt": {"value": 100000}})).outputs[PLANNER]


def test_unknown_hardware_does_not_run(planning: Client) -> None:
    with pytest.raises(Refused) as caught:
        planning.queue(planned(hardware="a potato"))
    assert list(caught.value.node_errors) == [PLANNER]


def test_nothing_to_plan(planning: Client) -> None:
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    assert plan(planning, graph)["verdict"] == "There is nothing to plan: the workflow uses no model of this pack."


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"prompt": {"1": {}}}', "node 1 of the workflow has no class_type"),
        ('{"prompt": {"1": {"class_type": "KSampler"}}}', "has no inputs"),
        ('{"prompt": {}}', "has no output node"),
        ('{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {}}}}', "has no output node"),
        ("[" * 100_000, "the body is not JSON"),
        ('{"prompt": ' + '{"a": ' * 100_000, "the body is not JSON"),
    ],
)  # fmt: skip
def test_requests_that_are_no_workflow_are_told_so(planning: Client, body: str, said: str) -> None:
    request = urllib.request.Request(
        planning.server.url + "/ggml/plan", body.encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code == 400
    assert said in json.load(caught.value)["error"]
