"""The memory planner over HTTP: what does not fit never starts."""

from __future__ import annotations

import copy
import json
import random
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from tests.comfy_server import Client, Interrupted, Refused, Workflow, changed, eventually, node_id, shipped, workflow
from tests.pack import ROOT

OURS = {"GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE", "GGMLMemoryPlanner"}
PLANNER = "90"
FUZZED = 60


def planned(name: str = "text_to_image", **inputs: Any) -> Workflow:
    """A workflow with a planner beside it."""
    graph = workflow(name)
    graph[PLANNER] = {
        "class_type": "GGMLMemoryPlanner",
        "inputs": {"mode": "reject", "gpu_budget": 0, "ram_budget": 0, **inputs},
    }
    return graph


@pytest.mark.parametrize("name", ["text_to_image", "image_to_image", "lora"])
def test_what_fits_runs_and_is_reported(planning: Client, name: str) -> None:
    job = planning.run(planned(name))
    (text,) = job.outputs[PLANNER]["text"]
    assert text.startswith("The workflow fits.")
    assert "Sampling (node " in text
    assert "is not in the plan" not in text
    assert len(planning.pictures(job)) == 1


def test_what_does_not_fit_is_refused_on_every_node_of_ours(planning: Client) -> None:
    eventually(lambda: idle(planning), "an empty queue")
    before = planning.get("/history")
    graph = planned(ram_budget=1)
    with pytest.raises(Refused) as caught:
        planning.queue(graph)
    refused = json.loads(str(caught.value))
    assert refused["error"]["message"].startswith("Encoding the prompt (node ")
    assert " MiB on CPU." in refused["error"]["message"]
    assert {graph[node]["class_type"] for node in refused["node_errors"]} == OURS
    assert planning.get("/history") == before
    assert idle(planning)


def test_no_other_output_runs(planning: Client) -> None:
    graph = planned(ram_budget=1)
    graph["91"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
    graph["92"] = {"class_type": "SaveImage", "inputs": {"images": ["91", 0], "filename_prefix": "other"}}
    with pytest.raises(Refused):
        planning.queue(graph)
    assert idle(planning)


def test_warning_lets_it_run(planning: Client) -> None:
    job = planning.run(planned(mode="warn", ram_budget=1))
    (text,) = job.outputs[PLANNER]["text"]
    assert "does not fit by" in text.splitlines()[0]
    assert len(planning.pictures(job)) == 1


def test_a_smaller_picture_fits_where_a_larger_one_does_not(planning: Client) -> None:
    """The number of MiB in the report is the one that decides; what is advised is true."""
    (text,) = planning.run(planned()).outputs[PLANNER]["text"]
    line = next(line for line in text.splitlines() if line.startswith("CPU: at most "))
    most = int(line.removeprefix("CPU: at most ").split()[0].replace(",", ""))
    planning.run(planned(ram_budget=most + 1))
    large = {"EmptySD3LatentImage": {"width": 192, "height": 192}, "GGMLVAE": {"tiling": "off"}}
    graph = changed(planned(ram_budget=most + 1), large)
    with pytest.raises(Refused, match="does not fit") as caught:
        planning.queue(graph)
    assert f"It fits with GGML VAE (node {node_id(graph, 'GGMLVAE')}): tiling auto" in caught.value.said(PLANNER)
    advised = {"GGMLVAE": {"tiling": "auto", "tile_size": 0}}
    assert len(planning.pictures(planning.run(changed(graph, advised)))) == 1


def test_faults_are_told_as_without_a_planner(planning: Client) -> None:
    graph = changed(planned(), {"GGMLVAE": {"vae_name": "none.safetensors"}})
    with pytest.raises(Refused) as caught:
        planning.queue(graph)
    assert node_id(graph, "GGMLVAE") in caught.value.node_errors
    assert PLANNER not in caught.value.node_errors


def idle(client: Client) -> bool:
    return client.get("/queue") == {"queue_running": [], "queue_pending": []}


def test_the_api_tells_the_plan_and_runs_nothing(planning: Client) -> None:
    eventually(lambda: idle(planning), "an empty queue")  # of what other tests did not wait for
    before = planning.get("/history")
    told = planning.send("/ggml/plan", {"prompt": workflow("text_to_image")})
    schema = json.loads((ROOT / "docs" / "plan.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(told, schema)
    assert told["fits"]
    assert told["shortage"] is None
    assert [phase["title"] for phase in told["phases"]] == [
        "Encoding the prompt", "Sampling", "Decoding the picture",
    ]  # fmt: skip
    for phase in told["phases"]:
        for device in phase["devices"].values():
            assert sum(device["shares"].values()) == device["peak"]
    peak = told["devices"]["CPU"]["peak"]
    assert peak == max(phase["devices"]["CPU"]["peak"] for phase in told["phases"])
    refused = planning.send("/ggml/plan", {"prompt": workflow("text_to_image"), "ram_budget": 1})
    jsonschema.validate(refused, schema)
    assert not refused["fits"]
    assert refused["verdict"].startswith("Encoding the prompt")
    assert planning.get("/history") == before


@pytest.mark.parametrize("body", [[], {}, {"prompt": 3}, {"prompt": {}, "gpu_budget": "many"}])
def test_the_api_says_what_is_wrong(planning: Client, body: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(planning, "/ggml/plan", body)
    assert caught.value.code == 400
    assert json.load(caught.value)["error"]


def test_the_api_names_a_file_that_is_not_there(planning: Client) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(planning, "/ggml/plan", {"prompt": shipped("text_to_image")})
    assert caught.value.code == 404
    assert json.load(caught.value)["error"].startswith("The model file ")


def post(client: Client, path: str, body: Any) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(client.server.url + path, json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=60).close()


def test_devices_and_health(planning: Client) -> None:
    names = [device["name"] for device in planning.get("/ggml/devices")["devices"]]
    assert "CPU" in names
    health = planning.get("/ggml/health")
    assert health["runner"] == "running"
    assert {device["name"] for device in health["memory"]["devices"]} == set(names)


def test_an_interruption_is_for_what_runs_not_for_a_plan(planning: Client) -> None:
    """Of pictures not planned before, which takes layers of ComfyUI that look for interruptions."""
    sides = iter(range(192, 1024, 16))

    def unseen() -> Workflow:
        return changed(planned(), {"EmptySD3LatentImage": {"width": next(sides), "height": 64}})

    eventually(lambda: idle(planning), "an empty queue")
    planning.send("/interrupt", {})  # of nothing: the next prompt takes it back when it starts
    assert planning.send("/ggml/plan", {"prompt": unseen()})["fits"]
    planning.send("/interrupt", {})
    assert planning.run(unseen()).outputs[PLANNER]
    endless = planning.queue(changed(planned(), {"KSampler": {"steps": 10000, "seed": 3}}))
    eventually(lambda: planning.get("/queue")["queue_running"], "its start")
    with ThreadPoolExecutor() as others:
        plans = [others.submit(planning.send, "/ggml/plan", {"prompt": unseen()}) for _ in range(4)]
        planning.send("/interrupt", {})
        with pytest.raises(Interrupted):
            planning.wait(endless)
        assert all(plan.result()["fits"] for plan in plans)


def damaged(draw: random.Random) -> Any:
    """A prompt with some of it replaced, removed or linked elsewhere."""
    graph: Any = copy.deepcopy(planned())
    junk = (None, 0, -1, 1e30, "", "x" * 99, [], {}, ["1", 0], ["90", 0], ["no", 7], [[], {}], True)
    for _ in range(draw.randrange(1, 4)):
        node = draw.choice(list(graph))
        match draw.randrange(5):
            case 0:
                graph[node] = draw.choice(junk)
            case 1:
                del graph[node]
            case 2 if isinstance(graph[node], dict):
                graph[node]["class_type"] = draw.choice((None, 7, "NoSuchNode", "KSampler", "GGMLVAE", "VAEDecode"))
            case 3 if isinstance(graph[node], dict):
                graph[node]["inputs"] = draw.choice(junk)
            case _:
                inputs = graph[node].get("inputs") if isinstance(graph[node], dict) else None
                if isinstance(inputs, dict) and inputs:
                    inputs[draw.choice(list(inputs))] = draw.choice(junk)
    return graph


@pytest.mark.parametrize("seed", range(FUZZED))
def test_damaged_prompts_get_the_answer_they_get_without_a_planner(planning: Client, seed: int) -> None:
    graph = damaged(random.Random(seed))
    answers = []
    for mode in ("reject", "warn"):
        if isinstance(graph.get(PLANNER), dict) and isinstance(graph[PLANNER].get("inputs"), dict):
            graph[PLANNER]["inputs"]["mode"] = mode
        answers.append(answer(planning, graph))
    planning.send("/queue", {"clear": True})
    planning.send("/interrupt", {})
    assert answers[0] == answers[1]
    planning.get("/system_stats")


def answer(client: Client, graph: Any) -> Any:
    """The kind of answer: accepted, or the faults of which nodes."""
    try:
        client.send("/prompt", {"prompt": graph})
    except Refused as refused:
        return sorted(refused.node_errors)
    except OSError as error:  # HTTP 500, which ComfyUI itself answers to some
        return str(error)
    return "accepted"
