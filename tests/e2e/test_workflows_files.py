"""The workflows' files: what the front end loads is what the API takes, and both are what the server's nodes expect."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
from PIL import Image

from tests.comfy_server import WORKFLOWS, Client, Workflow, shipped, workflow
from tools.micro_models import INSTEAD, ONLY_REAL, graph_with_micro_models
from tools.server import MODEL_FOLDERS

NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
TITLE_BAR = 30  # pixels above a node's position
NOTE = "MarkdownNote"  # lives in the front end alone
FILES = {*INSTEAD, *(file for files in ONLY_REAL.values() for file in files)}
TYPED = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")  # inputs that are widgets; the rest are sockets

Json = dict[str, Any]


def drawn(name: str) -> Json:
    """A workflow in the front end's format."""
    loaded: Json = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def known(comfyui: Client) -> Json:
    """The server's /object_info."""
    found: Json = comfyui.get("/object_info")
    return found


def inputs_of(info: Json) -> dict[str, list[Any]]:
    """A node's inputs in the order of the front end: required ones first."""
    order = info["input_order"]
    return {
        name: info["input"][kind][name] for kind in ("required", "optional") if kind in order for name in order[kind]
    }


def is_widget(spec: list[Any]) -> bool:
    return isinstance(spec[0], list) or spec[0] in TYPED


def widget_values(node: Json, info: Json) -> Json:
    """The values of a node's widgets by name; a seed and a picture have a second widget behind them."""
    values = iter(node["widgets_values"])
    named = {}
    for name, spec in inputs_of(info).items():
        if not is_widget(spec):
            continue
        named[name] = next(values)
        options = spec[1] if len(spec) > 1 else {}
        if options.get("control_after_generate"):
            assert next(values) == "fixed"
        if options.get("image_upload"):
            assert next(values) == "image"
    assert not list(values)
    return named


def as_api(graph: Json, known: Json) -> Workflow:
    """Converts a graph of the editor to API format, as the front end does."""
    links = {link[0]: link for link in graph["links"]}
    result = {}
    for node in graph["nodes"]:
        if node["type"] == NOTE:
            continue
        inputs = widget_values(node, known[node["type"]])
        for slot in node["inputs"]:
            if slot["link"] is not None:
                _, source, output, *_ = links[slot["link"]]
                inputs[slot["name"]] = [str(source), output]
        title = node.get("title") or known[node["type"]]["display_name"]
        result[str(node["id"])] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}
    return result


def test_both_formats_of_each_are_there() -> None:
    assert NAMES == [
        "ace_step_song",
        "checkpoint_sdxl",
        "expand_and_draw",
        "expand_with_server",
        "image_to_image",
        "lora",
        "qwen_image_edit",
        "text_to_image",
        "wan2_2_5b_video",
        "z_image_turbo",
    ]
    assert sorted(file.stem for file in (WORKFLOWS / "api").glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_thumbnail(name: str) -> None:
    """`python -m tests.e2e.thumbnails` draws them."""
    with Image.open(WORKFLOWS / f"{name}.jpg") as thumbnail:
        assert thumbnail.format == "JPEG"
        assert min(thumbnail.size) >= 256


@pytest.mark.parametrize("name", NAMES)
def test_both_formats_say_the_same(known: Json, name: str) -> None:
    assert as_api(drawn(name), known) == shipped(name)
    assert as_api(graph_with_micro_models(drawn(name)), known) == workflow(name)


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_named_with_where_it_is_to_be_had(name: str) -> None:
    """In the notes, and what is not GGUF for the front end too: older ones look for all of it in lists without GGUF."""
    graph = drawn(name)
    notes = " ".join(node["widgets_values"][0] for node in graph["nodes"] if node["type"] == NOTE)
    for node in graph["nodes"]:
        files = [value for value in node["widgets_values"] if value in FILES and node["type"] != "LoraLoader"]
        for file in files:
            (address,) = re.findall(rf"\[{re.escape(file)}\]\(https://huggingface\.co/(\S+)\)", notes)
            owner, repository, rest = address.split("/", 2)
            assert rest.startswith("resolve/main/")
            assert rest.endswith(f"/{file}")
            assert f"**{owner}/{repository}**" in notes
        models = node["properties"].get("models", [])
        assert [model["name"] for model in models] == [file for file in files if not file.endswith(".gguf")]
        for model in models:
            assert f"]({model['url']})" in notes
            assert model["directory"] in MODEL_FOLDERS


@pytest.mark.parametrize("name", NAMES)
def test_values_and_links_are_what_the_nodes_take(known: Json, name: str) -> None:
    graph = workflow(name)
    for node in graph.values():
        specs = inputs_of(known[node["class_type"]])
        unlinked = {
            name for name in known[node["class_type"]]["input"].get("optional", {}) if not is_widget(specs[name])
        }
        assert set(specs) - unlinked <= set(node["inputs"]) <= set(specs)
        for key, value in node["inputs"].items():
            kind = specs[key][0]
            options = specs[key][1] if len(specs[key]) > 1 else {}
            if isinstance(value, list):
                source = known[graph[value[0]]["class_type"]]
                assert source["output"][value[1]] == kind
            elif value in ONLY_REAL.get(name, ()):
                assert kind == "COMBO" or isinstance(kind, list)
            elif isinstance(kind, list) or kind == "COMBO":
                assert value in (kind if isinstance(kind, list) else options["options"])
            elif kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"]
            else:
                assert isinstance(value, {"STRING": str, "BOOLEAN": bool}[kind])


@pytest.mark.parametrize("name", NAMES)
def test_shared_workflows_run_anywhere(name: str) -> None:
    """The diffusion model goes where there is a GPU, the rest stays on the CPU."""
    nodes = {node["class_type"]: node["inputs"] for node in workflow(name).values()}
    if "GGMLCheckpoint" in nodes:
        devices = [nodes["GGMLCheckpoint"][f"{part}device"] for part in ("", "clip_", "vae_")]
    else:
        devices = [nodes[f"GGML{kind}"]["device"] for kind in ("DiffusionModel", "TextEncoders", "VAE")]
    assert devices == ["auto", "CPU", "CPU"]


@pytest.mark.parametrize("name", NAMES)
def test_the_link_table_agrees_with_the_nodes(known: Json, name: str) -> None:
    """Both ends of every link know it, and sockets carry the node's own names and types."""
    graph = drawn(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    ends = set()
    for link, source, output, target, slot, kind in graph["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][slot]["type"] == kind
        ends.add((target, slot))
    assert len(ends) == len(graph["links"]) == graph["last_link_id"]
    assert max(nodes) == graph["last_node_id"] == len(nodes)
    for node in nodes.values():
        if node["type"] == NOTE:
            continue
        info = known[node["type"]]
        assert {**node["properties"], "models": []} == {"Node name for S&R": node["type"], "models": []}
        outputs = list(zip(info["output_name"], info["output"], strict=True))
        assert [(output["name"], output["type"]) for output in node["outputs"]] == outputs
        sockets = [(slot["name"], slot["type"]) for slot in node["inputs"] if "widget" not in slot]
        assert sockets == [(name, spec[0]) for name, spec in inputs_of(info).items() if not is_widget(spec)]
        before = {link[1] for link in graph["links"] if link[3] == node["id"]}
        assert all(nodes[source]["order"] < node["order"] for source in before)
    assert (graph["version"], graph["revision"]) == (0.4, 0)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_lies_over_another(name: str) -> None:
    graph = drawn(name)
    boxes = [
        (x, y - TITLE_BAR, x + width, y + height)
        for (x, y), (width, height) in ((node["pos"], node["size"]) for node in graph["nodes"])
    ]
    groups = [(x, y, x + width, y + height) for x, y, width, height in (group["bounding"] for group in graph["groups"])]
    for set_ in (boxes, groups):
        assert not [pair for pair in combinations(set_, 2) if overlap(*pair)]
    for box, node in zip(boxes, graph["nodes"], strict=True):
        if node["type"] != NOTE:
            assert any(inside(box, group) for group in groups), node["type"]


Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a: Box, b: Box) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]
