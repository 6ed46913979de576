"""The planner's modes: it chooses settings, plans for other hardware, and reports estimated beside actual memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.comfy_server import Client, Refused, Workflow, changed, eventually, node_id, workflow
from tests.e2e.test_planner import PLANNER, idle, planned
from tests.pack import ROOT
from tools.micro_models import write_workflows

LOADERS = ("GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE")
RX_580 = "RX 580 8 GB, Linux"


def on_auto(name: str = "text_to_image", **inputs: Any) -> Workflow:
    """A workflow that leaves everything to the planner beside it."""
    auto = {loader: {"device": "auto", "weights": "auto"} for loader in LOADERS}
    return changed(planned(name, mode="fit", **inputs), auto)


def text(client: Client, graph: Workflow) -> str:
    """The report of a workflow that runs."""
    return str(client.run(graph).outputs[PLANNER]["text"][0])


def test_fit_chooses_shows_and_runs_what_it_chose(planning: Client) -> None:
    """No GPU here that is none of software: the CPU, with the copies its fastest code reads."""
    graph = on_auto()
    prompt = planning.queue(graph)
    job = planning.wait(prompt)
    _, _, ran, *_ = planning.get(f"/history/{prompt}")[prompt]["prompt"]
    for loader in LOADERS:
        assert ran[node_id(graph, loader)]["inputs"]["device"] == "CPU"
    assert ran[node_id(graph, "GGMLDiffusionModel")]["inputs"]["weights"] == "device"
    lines = job.outputs[PLANNER]["text"][0].splitlines()
    assert lines[0] == "The workflow fits."
    assert f"GGML Diffusion Model (node {node_id(graph, 'GGMLDiffusionModel')}): device CPU, weights device" in lines[1]
    (picture,) = planning.pictures(job)
    settled = changed(graph, {loader: ran[node_id(graph, loader)]["inputs"] for loader in LOADERS})
    assert np.array_equal(picture, planning.draw(changed(settled, {"GGMLMemoryPlanner": {"mode": "reject"}})))


def test_fit_leaves_alone_what_is_set_and_refuses_where_nothing_fits(planning: Client) -> None:
    told = planning.send("/ggml/plan", {"prompt": planned(), "mode": "fit"})
    graph = planned()
    for node, inputs in told["chosen"].items():
        for name in inputs:
            assert graph[node]["inputs"].get(name, "auto") in ("auto", 0)
    with pytest.raises(Refused, match="does not fit"):
        planning.queue(on_auto(ram_budget=1))


def test_what_fits_another_card(planning: Client) -> None:
    """Shown, but not set here."""
    graph = on_auto(hardware=RX_580)
    prompt = planning.queue(graph)
    report = planning.wait(prompt).outputs[PLANNER]["text"][0]
    assert f"Planned for {RX_580}" in report
    assert f"On {RX_580}: GGML Diffusion Model" in report
    assert "device Vulkan0" in report
    _, _, ran, *_ = planning.get(f"/history/{prompt}")[prompt]["prompt"]
    assert ran[node_id(graph, "GGMLDiffusionModel")]["inputs"]["device"] == "auto"


def test_hardware_that_nobody_knows(planning: Client) -> None:
    with pytest.raises(Refused) as caught:
        planning.queue(planned(hardware="a potato"))
    assert PLANNER in caught.value.node_errors


def test_this_machine_as_a_profile(planning: Client) -> None:
    """A plan for a profile that a machine exported, and for one known by name."""
    told = planning.get("/ggml/profiles")
    assert RX_580 in told["profiles"]
    for profile in (told["this_machine"], RX_580):
        plan = planning.send("/ggml/plan", {"prompt": workflow("text_to_image"), "profile": profile})
        assert plan["fits"]
        assert plan["profile"] == (profile if isinstance(profile, str) else profile["name"])
    broken = {"name": "x", "system": "linux", "ram": 8192, "gpus": [{"description": "RX 580", "memory": "8 GB"}]}
    with pytest.raises(Refused, match="memory must be a whole number of MiB"):
        planning.send("/ggml/plan", {"prompt": workflow("text_to_image"), "profile": broken})
    with pytest.raises(Refused, match="There is no hardware profile 'a potato'"):
        planning.send("/ggml/plan", {"prompt": workflow("text_to_image"), "profile": "a potato"})


def test_in_the_line_of_the_models(planning: Client) -> None:
    graph = planned()
    for output, (kind, loader) in enumerate(zip(("model", "clip", "vae"), LOADERS, strict=True), 2):
        source = [node_id(graph, loader), 0]
        for made in graph.values():
            made["inputs"] |= {key: [PLANNER, output] for key, value in made["inputs"].items() if value == source}
        graph[PLANNER]["inputs"][kind] = source
    job = planning.run(graph)
    assert "is not in the plan" not in job.outputs[PLANNER]["text"][0]
    assert "Sampling (node " in job.outputs[PLANNER]["text"][0]
    assert np.array_equal(planning.pictures(job)[0], planning.draw(planned()))


def test_what_was_taken_stands_beside_what_was_planned(planning: Client) -> None:
    """On the node while the workflow runs, and in the log."""
    planning.send("/free", {"unload_models": True, "free_memory": True})
    eventually(lambda: not planning.get("/ggml/health")["memory"]["models"], "an empty runner")
    events = planning.follow(changed(planned(), {"KSampler": {"seed": 77}}))
    reports = [data["text"] for kind, data in events if kind == "progress_text" and data["node"] == PLANNER]
    found = re.findall(r"CPU: ([\d,]+) MiB planned, ([\d,]+) measured", reports[-1])
    assert len(found) == 3  # phases
    for planned_, measured in found:
        assert measured == planned_
    log = planning.server.log.read_text(encoding="utf-8", errors="replace")
    assert re.search(r"Sampling \(node \S+\) on CPU: \d+ MiB planned, \d+ measured so far", log)


def test_a_small_job_after_a_large_one_takes_what_it_would_alone(planning: Client) -> None:
    """Of pictures and of prompts; nothing is freed by hand."""
    large = {"EmptySD3LatentImage": {"width": 512, "height": 384}, "CLIPTextEncode": {"text": "many words " * 300},
             "GGMLVAE": {"tiling": "off"}}  # fmt: skip
    small = {"EmptySD3LatentImage": {"width": 64, "height": 64}, "CLIPTextEncode": {"text": "a dog"},
             "GGMLVAE": {"tiling": "off"}}  # fmt: skip
    for seed, job in enumerate((large, small)):
        events = planning.follow(changed(planned(), {**job, "KSampler": {"seed": 91 + seed}}))
        reports = [data["text"] for kind, data in events if kind == "progress_text" and data["node"] == PLANNER]
        found = re.findall(r"CPU: ([\d,]+) MiB planned, ([\d,]+) measured", reports[-1])
        assert len(found) == 3  # phases
        assert [measured for _, measured in found] == [each for each, _ in found]


def test_sizes_that_cannot_be_known(planning: Client) -> None:
    graph = planned("image_to_image")
    graph["70"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "twice.safetensors"}}
    graph["71"] = {
        "class_type": "ImageUpscaleWithModel",
        "inputs": {"image": [node_id(graph, "LoadImage"), 0], "upscale_model": ["70", 0]},
    }
    encoder = node_id(graph, "VAEEncode")
    graph[encoder]["inputs"]["pixels"] = ["71", 0]
    told = planning.send("/ggml/plan", {"prompt": graph})
    gap = f"VAEEncode (node {encoder}) is not in the plan: UpscaleModelLoader reads it from a file of its own."
    assert told["gaps"][0] == gap
    assert told["verdict"].startswith(f"Whether the workflow fits is not known: {gap}")
    assert not told["fits"]
    told = planning.send("/ggml/plan", {"prompt": graph, "unknown_width": 64, "unknown_height": 128})
    assert f"VAEEncode (node {encoder}) is planned with 1 of 64 x 128 pixels" in " ".join(told["notes"])
    assert told["fits"]
    assert not told["gaps"]


@pytest.mark.parametrize("node", ["VAEEncodeForInpaint", "InpaintModelConditioning"])
def test_inpainting_is_planned(planning: Client, node: str) -> None:
    graph = planned("image_to_image")
    encoder, sampler = node_id(graph, "VAEEncode"), node_id(graph, "KSampler")
    graph["70"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}}
    graph[encoder]["class_type"] = node
    graph[encoder]["inputs"]["mask"] = ["70", 0]
    if node == "VAEEncodeForInpaint":
        graph[encoder]["inputs"]["grow_mask_by"] = 6
    else:
        conds = {name: graph[sampler]["inputs"][name] for name in ("positive", "negative")}
        graph[encoder]["inputs"] |= {**conds, "noise_mask": True}
        graph[sampler]["inputs"] |= {"positive": [encoder, 0], "negative": [encoder, 1], "latent_image": [encoder, 2]}
    report = text(planning, graph)
    assert report.startswith("The workflow fits.")
    assert "is not in the plan" not in report
    assert f"Encoding the picture (node {encoder})" in report
    assert f"Sampling (node {sampler})" in report


def test_only_what_is_to_run_is_planned(planning: Client) -> None:
    graph = planned()
    graph["91"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
    graph["92"] = {"class_type": "PreviewImage", "inputs": {"images": ["91", 0]}}
    posted = {"prompt": changed(graph, {"GGMLMemoryPlanner": {"ram_budget": 1}})}
    with pytest.raises(Refused):
        planning.send("/prompt", posted)
    planning.wait(planning.send("/prompt", {**posted, "partial_execution_targets": ["92"]})["prompt_id"])
    eventually(lambda: idle(planning), "an empty queue")


def test_absurd_sizes_cost_nothing(planning: Client) -> None:
    graph = planned(mode="warn")
    graph["70"] = {"class_type": "EmptyImage",
                   "inputs": {"width": 16384, "height": 16384, "batch_size": 4096, "color": 0}}  # fmt: skip
    graph["71"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["70", 0], "vae": [node_id(graph, "GGMLVAE"), 0]}}
    graph["72"] = {"class_type": "VAEDecode", "inputs": {"samples": ["71", 0], "vae": [node_id(graph, "GGMLVAE"), 0]}}
    graph["73"] = {"class_type": "PreviewImage", "inputs": {"images": ["72", 0]}}
    told = planning.send("/ggml/plan", {"prompt": graph})
    assert any(re.search(r"VAEEncode \(node 71\) is not in the plan: it makes a tensor of [\d,.]+ GiB", note)
               for note in told["notes"])  # fmt: skip


@pytest.mark.parametrize("name", ["text_to_image", "image_to_image", "lora"])
def test_the_command_line_says_what_the_server_says(planning: Client, name: str, tmp_path: Path) -> None:
    """For the editor's file what the server says of the one in API format."""
    write_workflows(ROOT / "workflows", tmp_path)
    file = tmp_path / f"{name} with micro models.json"
    base = planning.server.output.parent
    folders = ["--", "--base-directory", base, "--extra-model-paths-config", base / "models.yaml"]
    told = planning.send("/ggml/plan", {"prompt": workflow(name), "profile": RX_580})
    line = [sys.executable, ROOT / "plan.py", file, "--hardware", RX_580, "--json"]
    done = subprocess.run([*line, *folders], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["devices"] == told["devices"]
    assert [phase["title"] for phase in plan["phases"]] == [phase["title"] for phase in told["phases"]]
    assert plan["notes"] == told["notes"] == []


def test_the_command_line_names_what_is_wrong(tmp_path: Any) -> None:
    file = tmp_path / "none.json"
    file.write_text("[1, 2")
    done = subprocess.run(
        [sys.executable, ROOT / "plan.py", file], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 2
    assert "none.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_language_model_is_planned(planning: Client) -> None:
    """In a phase of its own, or all the time where it is kept; what it writes is as long as it may be."""
    graph = workflow("expand_and_draw")
    told = planning.send("/ggml/plan", {"prompt": graph})
    assert told["fits"]
    assert [phase["title"] for phase in told["phases"]] == [
        "Writing the prompt", "Encoding the prompt", "Sampling", "Decoding the picture",
    ]  # fmt: skip
    taken = [phase["devices"]["CPU"]["shares"].get("language model", 0) for phase in told["phases"]]
    assert taken[0] > 1 << 20
    assert taken[1:] == [0, 0, 0]
    assert any("tokens, as a language model writes it" in note for note in told["notes"])
    kept = changed(graph, {"GGMLLanguageModel": {"after_use": "keep"}})
    told = planning.send("/ggml/plan", {"prompt": kept})
    assert [phase["devices"]["CPU"]["shares"].get("language model", 0) for phase in told["phases"]] == [taken[0]] * 4
    little = taken[0] // (1 << 20)
    told = planning.send("/ggml/plan", {"prompt": graph, "ram_budget": little})
    assert told["verdict"].startswith("Writing the prompt")
    assert told["shortage"]["loader"] == node_id(graph, "GGMLLanguageModel")
    elsewhere = changed(graph, {"GGMLLanguageModel": {"device": "Vulkan0"}})
    told = planning.send("/ggml/plan", {"prompt": elsewhere, "profile": RX_580})
    assert told["phases"][0]["devices"]["Vulkan0"]["shares"]["language model"] > 1 << 20
