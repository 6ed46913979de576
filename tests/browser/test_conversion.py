"""Official templates in ComfyUI's editor: read as it reads them, converted by the setting and by the command."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.editor import Editor
from tests.browser.test_editor import open_as, run
from tests.comfy_server import changed, eventually
from tests.pack import part

PACKAGE = importlib.util.find_spec("comfyui_workflow_templates_json")
TEMPLATES = Path(PACKAGE.submodule_search_locations[0], "templates") if PACKAGE else Path()  # type: ignore[index]
# A subgraph whose widgets are promoted, in each of the ways of older front ends; nested, muted and bypassed ones.
READ = ("flux_dev_full_text_to_image", "04_hunyuan_3d_2.1_subgraphed", "flux1_dev_uso_reference_image_gen")
# With one, whose models have small ones that can stand in for them.
DRAWN = "flux_dev_full_text_to_image"
MICRO = {
    "flux1-dev.safetensors": "flux1-schnell-micro-fp8_e4m3fn.safetensors",
    "t5xxl_fp16.safetensors": "t5-micro-encoder-Q8_0.gguf",
    "clip_l.safetensors": "clip_l-micro_fp8_e4m3fn.safetensors",
    "ae.safetensors": "ae-micro.safetensors",
}
LOADERS = {"UNETLoader", "DualCLIPLoader", "VAELoader"}
OURS = {"GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE"}

pytestmark = pytest.mark.skipif(PACKAGE is None, reason="this ComfyUI has no such templates")


def template(name: str) -> dict[str, Any]:
    graph: dict[str, Any] = json.loads((TEMPLATES / f"{name}.json").read_text("utf-8"))
    return graph


def small() -> dict[str, Any]:
    """The template that is drawn, with micro models and a small picture."""
    text = json.dumps(template(DRAWN))
    for name, micro in MICRO.items():
        text = text.replace(f'"{name}"', f'"{micro}"')
    graph: dict[str, Any] = json.loads(text)
    (inner,) = graph["definitions"]["subgraphs"]
    for node in inner["nodes"]:
        if node["type"] == "EmptySD3LatentImage":
            node["widgets_values"] = [64, 64, 1]
        if node["type"] == "KSampler":
            node["widgets_values"] = [5, "fixed", 2, 1, "euler", "simple", 1]
    return graph


def classes(editor: Editor) -> set[str]:
    return {node["class_type"] for node in editor.prompt().values()}


def saved(editor: Editor) -> Any:
    return editor.run("return JSON.parse(JSON.stringify((window.app.rootGraph ?? window.app.graph).serialize()))")


@pytest.fixture(scope="module")
def known() -> Any:
    """ComfyUI's nodes and ours, in this process."""
    core = importlib.import_module("nodes") if part("nodes.extension") else None
    asyncio.run(core.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))  # type: ignore[union-attr]
    return core


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_as_the_editor_reads_it(editor: Editor, known: Any, name: str) -> None:
    if not (TEMPLATES / f"{name}.json").exists():
        pytest.skip("this version of the templates has it not")
    open_as(editor)
    graph = template(name)
    editor.load_graph(graph)
    theirs = {key: node for key, node in editor.prompt().items() if node["class_type"] in known.NODE_CLASS_MAPPINGS}
    read = part("nodes.planner.workflow_file").prompt_of(graph)
    assert read.keys() == theirs.keys()
    for key, node in theirs.items():
        named = {each for each, _, _ in part("nodes.conversion.widgets").class_inputs(node["class_type"])}
        theirs_of_node = {each: value for each, value in node["inputs"].items() if each.partition(".")[0] in named}
        assert read[key] == {"class_type": node["class_type"], "inputs": theirs_of_node}, key


@pytest.mark.parametrize("nodes_2", [False, True], ids=["canvas", "nodes_2"])
def test_with_the_setting_on_a_template_draws_on_ggml_and_its_nodes_say_so(editor: Editor, nodes_2: bool) -> None:
    open_as(editor, nodes_2=nodes_2, **{"GGML.Convert.Always": True})
    try:
        editor.load_graph(small())
        before = saved(editor)
        assert classes(editor) >= LOADERS
        editor.open_panel()
        assert editor.planned() == "The workflow fits."
        prompt = editor.prompt()
        drawn = run(editor)
        assert saved(editor)["definitions"] == before["definitions"]
        by_hand = editor.client.send("/ggml/convert", {"prompt": prompt})
        assert {each["from"] for each in by_hand["converted"]} == LOADERS
        again = changed(by_hand["prompt"], {"SaveImage": {"filename_prefix": f"by_hand_{nodes_2}"}})
        assert np.array_equal(drawn, editor.client.draw(again))
        enter(editor)
        for kind in LOADERS:
            said = eventually(lambda kind=kind: badge(editor, kind), "the badge", 20)
            assert re.fullmatch(r"GGML · CPU · ram · [\d,]+ MiB", said), said
            if nodes_2:
                assert said in editor.says(f"[data-node-id='{inside(editor, kind)}']")
    finally:
        editor.client.send("/settings", {"GGML.Convert.Always": False})


def enter(editor: Editor) -> None:
    """Look into the subgraph."""
    editor.run(
        """
        const host = window.app.graph.nodes.find((node) => node.subgraph);
        window.app.canvas.openSubgraph(host.subgraph, host);
        """
    )
    eventually(lambda: inside(editor, "KSampler"), "the subgraph", 20)


def inside(editor: Editor, kind: str) -> Any:
    """The id of the node of a class in the graph that is looked at; None where it has none."""
    return editor.run("return window.app.canvas.graph.nodes.find((node) => node.comfyClass === arguments[0])?.id", kind)


def badge(editor: Editor, kind: str) -> Any:
    return editor.run(
        "return window.app.canvas.graph.nodes.find((node) => node.comfyClass === arguments[0])?.badges.at(-1)?.().text",
        kind,
    )


@pytest.mark.parametrize("nodes_2", [False, True], ids=["canvas", "nodes_2"])
def test_the_command_converts_and_one_undo_takes_it_back(editor: Editor, nodes_2: bool) -> None:
    open_as(editor, nodes_2=nodes_2)
    editor.load_graph(small())
    before, prompt = saved(editor), editor.prompt()
    editor.command("GGML.Convert")
    eventually(lambda: classes(editor) >= OURS, "the converted graph", 60)
    assert not classes(editor) & LOADERS
    after, expected = saved(editor), editor.client.send("/ggml/convert", {"prompt": prompt})["prompt"]
    assert links(after) == links(before)
    assert places(after) == places(before)
    assert {key: node["inputs"] for key, node in editor.prompt().items()} == {
        key: node["inputs"] for key, node in expected.items()
    }
    assert run(editor).shape == (64, 64, 3)
    editor.command("Comfy.Undo")
    eventually(lambda: classes(editor) >= LOADERS, "the graph from before")
    assert editor.prompt() == prompt
    editor.command("Comfy.Redo")
    eventually(lambda: classes(editor) >= OURS, "the converted graph again")


def links(graph: dict[str, Any]) -> Any:
    """Every link by graph, without the position among a node's inputs."""
    (subgraph,) = graph["definitions"]["subgraphs"]
    inner = [{key: link[key] for key in link if key != "target_slot"} for link in subgraph["links"]]
    return sorted(map(str, inner)), [[*link[:4], link[5]] for link in graph["links"]]


def places(graph: dict[str, Any]) -> Any:
    graphs = (graph, *graph["definitions"]["subgraphs"])
    return {str(node["id"]): [list(node["pos"]), node.get("mode")] for each in graphs for node in each["nodes"]}
