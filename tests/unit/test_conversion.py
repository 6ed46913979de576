"""The conversion of foreign loaders: its table against ComfyUI's own classes, prompts, and the editor's graphs."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pack import part

extension = part("nodes.extension")
table, convert, editor, widgets = (
    part(f"nodes.conversion.{name}") for name in ("table", "convert", "editor", "widgets")
)
workflow_file = part("nodes.planner.workflow_file")

import folder_paths  # noqa: E402

import nodes as core  # noqa: E402

Prompt = dict[str, dict[str, Any]]
FOLDERS = ("diffusion_models", "text_encoders", "vae", "checkpoints", "clip_vision", "controlnet", "upscale_models")
FILES = ("one.safetensors", "two.safetensors", "three.gguf", "four.sft", "old.ckpt")
TEMPLATES = importlib.util.find_spec("comfyui_workflow_templates_json")
SAMPLE = 6  # one in so many of the official templates


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    """ComfyUI's nodes and ours in core's table."""
    before = dict(core.NODE_CLASS_MAPPINGS)
    asyncio.run(core.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    for node in asyncio.run(extension.GGMLExtension().get_node_list()):
        core.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node
    yield
    for name in set(core.NODE_CLASS_MAPPINGS) - set(before):
        del core.NODE_CLASS_MAPPINGS[name]


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Model folders with files of every kind."""
    folders = dict(folder_paths.folder_names_and_paths)
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        for name in FILES:
            (tmp_path / folder / name).touch()
        folders[folder] = ([str(tmp_path / folder)], {".safetensors", ".sft", ".ckpt"})
        key = part("nodes.loaders.files").GGUF_FOLDERS.get(folder)
        if key:
            folders[key] = ([str(tmp_path / folder)], {".gguf"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


HERE = [row for row in table.ROWS.values() if not row.foreign.endswith(("MultiGPU", "DynamicVRAM"))]


def prompt(class_type: str, outputs: int = 1, **inputs: Any) -> Prompt:
    """A loader with a node behind each of its outputs."""
    behind = {str(10 + output): {"class_type": "Behind", "inputs": {"it": ["1", output]}} for output in range(outputs)}
    return {"1": {"class_type": class_type, "inputs": inputs, "_meta": {"title": "mine"}}, **behind}


@pytest.mark.parametrize("row", [row for row in HERE if "GGUF" not in row.foreign], ids=lambda row: row.foreign)
def test_every_input_of_cores_loaders_is_carried_over_or_dropped_by_name(row: Any) -> None:
    core_class = core.NODE_CLASS_MAPPINGS[row.foreign]
    assert list(row.inputs) == [name for name, _, _ in widgets.class_inputs(row.foreign)]
    assert list(row.outputs) == list(core_class.RETURN_TYPES)


@pytest.mark.parametrize("row", table.ROWS.values(), ids=lambda row: row.foreign)
def test_a_row_names_inputs_that_ours_has(row: Any) -> None:
    if row.ours not in core.NODE_CLASS_MAPPINGS:
        pytest.skip(f"{row.ours} is not there")
    ours = {name for name, _, _ in widgets.class_inputs(row.ours)}
    assert {each.name for each in row.inputs.values() if isinstance(each, table.Carried)} | set(row.given) <= ours
    assert convert.output_map(row)[0] == 0


def test_every_loader_of_core_is_in_the_table_or_known_to_stay() -> None:
    """A new ComfyUI's new loader is noticed here."""
    stay = {"DiffusersLoader", "GLIGENLoader", "PhotoMakerLoader", "StyleModelLoader"}
    loaders = {name for name in core.NODE_CLASS_MAPPINGS if convert.is_loader(name)}
    assert loaders - set(table.ROWS) <= stay, loaders - set(table.ROWS) - stay
    assert {"UNETLoader", "VAELoader", "ControlNetLoader"} <= loaders


def test_a_diffusion_model() -> None:
    before = prompt("UNETLoader", unet_name="one.safetensors", weight_dtype="default")
    given = copy.deepcopy(before)
    after, report = convert.convert(before)
    assert before == given
    assert after["1"] == {
        "class_type": "GGMLDiffusionModel",
        "inputs": {"model_name": "one.safetensors", "device": "auto", "weights": "auto", "budget": 0, "engine": "auto"},
        "_meta": {"title": "mine"},
    }
    assert after["10"] == before["10"]
    assert report.lines() == ["UNETLoader (node 1) is now GGMLDiffusionModel."]


def test_a_type_of_weights_is_named_as_dropped() -> None:
    _, report = convert.convert(prompt("UNETLoader", unet_name="one.safetensors", weight_dtype="fp8_e4m3fn"))
    (note,) = report.converted[0].notes
    assert note == "weight_dtype fp8_e4m3fn is left out: weights are computed with as they are stored in the file."


@pytest.mark.parametrize("device", [("default", "auto"), ("cpu", "CPU")])
def test_text_encoders(device: tuple[str, str]) -> None:
    two = prompt(
        "DualCLIPLoader", clip_name1="one.safetensors", clip_name2="two.safetensors", type="flux", device=device[0]
    )
    inputs = convert.convert(two)[0]["1"]["inputs"]
    assert inputs["clip_name1"] == "one.safetensors"
    assert inputs["clip_name2"] == "two.safetensors"
    assert inputs["clip_name3"] == "none"
    assert inputs["type"] == "flux"
    assert inputs["device"] == device[1]


def test_every_type_of_cores_encoders_is_carried_over() -> None:
    for name in ("CLIPLoader", "DualCLIPLoader"):
        kinds = next(options["options"] for each, _, options in widgets.class_inputs(name) if each == "type")
        ours = next(
            options["options"] for each, _, options in widgets.class_inputs("GGMLTextEncoders") if each == "type"
        )
        assert set(kinds) <= set(ours)
    odd = prompt("CLIPLoader", clip_name="one.safetensors", type="not known")
    assert convert.convert(odd)[0]["1"]["inputs"]["type"] == "stable_diffusion"  # as core takes it


def test_a_loader_of_a_pack_that_is_not_installed() -> None:
    before = prompt("UnetLoaderGGUF", unet_name="three.gguf")
    assert "UnetLoaderGGUF" not in core.NODE_CLASS_MAPPINGS
    assert convert.convert(before)[0]["1"]["inputs"]["model_name"] == "three.gguf"


def test_placement_of_others_becomes_auto_and_is_named() -> None:
    before = prompt(
        "UnetLoaderGGUFDisTorch2MultiGPU", unet_name="three.gguf", compute_device="cuda:1", virtual_vram_gb=4.0,
        donor_device="cpu", expert_mode_allocations="", eject_models=True,
    )  # fmt: skip
    after, report = convert.convert(before)
    assert after["1"]["inputs"]["device"] == "auto"
    (note,) = report.converted[0].notes
    assert note == (
        "compute_device, virtual_vram_gb, donor_device, expert_mode_allocations and eject_models of "
        "UnetLoaderGGUFDisTorch2MultiGPU are left out: the placement is auto."
    )


@pytest.mark.parametrize(
    ("class_type", "inputs", "why"),
    [
        ("UNETLoader", {"unet_name": "gone.safetensors"}, "the file gone.safetensors is not in this ComfyUI's model"),
        ("UNETLoader", {"unet_name": "old.ckpt"}, "old.ckpt is neither a GGUF nor a safetensors file"),
        ("UNETLoader", {}, "it names no file"),
        ("UNETLoader", {"unet_name": ["a", "b", "c"]}, "its unet_name names no file"),
        ("VAELoader", {"vae_name": "old.pt"}, "old.pt is neither"),
        ("StyleModelLoader", {"style_model_name": "one.safetensors"}, "this pack has no loader like it"),
        (
            "CheckpointLoader", {"ckpt_name": "one.safetensors", "config_name": "v2-inference-v.yaml"},
            "its config_name is v2-inference-v.yaml, and it says more than the model file",
        ),
    ],
)  # fmt: skip
def test_what_is_not_converted_is_named(class_type: str, inputs: dict[str, Any], why: str) -> None:
    before = prompt(class_type, **inputs)
    after, report = convert.convert(before)
    assert after == before
    assert report.converted == ()
    (kept,) = report.kept
    assert why in kept.words
    assert kept.words.startswith(f"{class_type} (node 1) stays as it is")


def test_a_loader_of_an_unknown_pack_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Another:
        RETURN_TYPES = ("MODEL",)

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"name": (["one.safetensors"],)}}

    monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, "AnotherLoader", Another)
    _, report = convert.convert(prompt("AnotherLoader", name="one.safetensors"))
    assert report.kept[0].words == ("AnotherLoader (node 1) stays as it is, on torch: this pack has no loader like it.")


def test_links_stay_and_a_linked_name_is_carried_over() -> None:
    before = prompt("CheckpointLoaderSimple", 3, ckpt_name=["7:4", 0])
    after, _ = convert.convert(before)
    assert after["1"]["inputs"]["ckpt_name"] == ["7:4", 0]
    assert {key: after[key] for key in ("10", "11", "12")} == {key: before[key] for key in ("10", "11", "12")}


def test_an_output_that_ours_has_not_stays_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(table.ROWS["ImageOnlyCheckpointLoader"], outputs=("MODEL", "STYLE_MODEL", "VAE"))
    monkeypatch.setitem(table.ROWS, row.foreign, row)
    before = prompt("ImageOnlyCheckpointLoader", 3, ckpt_name="one.safetensors")
    after, report = convert.convert(before)
    assert after["1"]["class_type"] == "GGMLCheckpoint"
    assert after["10"]["inputs"]["it"] == ["1", 0]
    assert after["11"]["inputs"]["it"] == ["1-torch", 1]
    assert after["12"]["inputs"]["it"] == ["1", 2]
    assert after["1-torch"] == before["1"]
    assert report.converted[0].notes == (
        "ImageOnlyCheckpointLoader stays beside GGMLCheckpoint for its STYLE_MODEL, on torch.",
    )
    alone, _ = convert.convert({key: before[key] for key in ("1", "10", "12")})
    assert "1-torch" not in alone


def test_a_checkpoints_clip_vision_model_is_ours() -> None:
    after, report = convert.convert(prompt("ImageOnlyCheckpointLoader", 3, ckpt_name="one.safetensors"))
    assert [after[key]["inputs"]["it"] for key in ("10", "11", "12")] == [["1", 0], ["1", 3], ["1", 2]]
    assert not report.kept
    assert report.converted[0].notes == ()


def test_ltx_2s_loaders_name_a_checkpoint() -> None:
    after, _ = convert.convert(prompt("LTXVAudioVAELoader", ckpt_name="one.safetensors"))
    assert after["1"]["class_type"] == "GGMLVAE"
    assert after["1"]["inputs"]["vae_name"] == "one.safetensors"
    given = {"text_encoder": "one.safetensors", "ckpt_name": "two.safetensors", "device": "default"}
    after, _ = convert.convert(prompt("LTXAVTextEncoderLoader", **given))
    inputs = after["1"]["inputs"]
    assert (after["1"]["class_type"], inputs["type"], inputs["device"]) == ("GGMLTextEncoders", "ltxv", "auto")
    assert (inputs["clip_name1"], inputs["clip_name2"]) == ("one.safetensors", "two.safetensors")


def test_what_is_converted_is_left_alone_the_second_time() -> None:
    once, _ = convert.convert(prompt("VAELoader", vae_name="one.safetensors"))
    twice, report = convert.convert(once)
    assert twice == once
    assert report.lines() == []


@pytest.mark.parametrize("damaged", [{}, {"1": None}, {"1": {"class_type": 3}}, {"1": {"class_type": "UNETLoader"}}])
def test_a_damaged_prompt_is_passed_on(damaged: Any) -> None:
    assert convert.convert(damaged)[0] == damaged


def templates() -> list[Path]:
    """A sample of the official templates, each time another."""
    if TEMPLATES is None or not TEMPLATES.submodule_search_locations:
        return []
    found = Path(TEMPLATES.submodule_search_locations[0], "templates").glob("*.json")
    return [path for path in sorted(found) if not path.stem.startswith(("index", "fuse"))][::SAMPLE]


def _touched(before: Prompt, models: Path) -> None:
    """Have every file that a loader of the table names."""
    folders = {"GGMLDiffusionModel": "diffusion_models", "GGMLTextEncoders": "text_encoders", "GGMLVAE": "vae"}
    for node in before.values():
        row = table.ROWS.get(node["class_type"])
        for name, each in row.inputs.items() if row else ():
            value = node["inputs"].get(name)
            if isinstance(each, table.Carried) and each.name.partition("_")[2].startswith("name"):
                folder = models / folders.get(row.ours, "checkpoints")
                if isinstance(value, str) and "/" not in value and "\\" not in value:
                    (folder / value).touch()


@pytest.mark.parametrize("path", templates(), ids=lambda path: path.stem)
def test_a_template_is_converted_in_the_editor_as_when_it_is_posted(path: Path, models: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    before = workflow_file.prompt_of(content)
    _touched(before, models)
    after, report = convert.convert(before)
    graph, of_graph = editor.convert_workflow(content)
    drawn = workflow_file.prompt_of(graph)
    assert {node.before for node in report.converted} <= {node.before for node in of_graph.converted}
    ours = {each.node for each in report.converted if not any("beside" in note for note in each.notes)}
    for node in set(after) & set(drawn):
        if node in ours or after[node]["class_type"] == drawn[node]["class_type"] == before[node]["class_type"]:
            assert same(drawn[node]["inputs"], after[node]["inputs"]), node
    assert {key for key in after if key in before} <= set(drawn)


def same(drawn: dict[str, Any], posted: dict[str, Any]) -> bool:
    """Whether two nodes have the same inputs; what stays beside a loader has another id in the editor."""
    links = {name for name, value in posted.items() if isinstance(value, list) and str(value[0]).endswith("-torch")}
    return {name: value for name, value in drawn.items() if name not in links} == {
        name: value for name, value in posted.items() if name not in links
    }


def node(number: int, class_type: str, **more: Any) -> dict[str, Any]:
    """A node of the editor."""
    return {"id": number, "type": class_type, "pos": [number, 0], "size": [200, 80], "mode": 0, **more}


def test_the_editors_node_keeps_id_title_place_mode_and_links() -> None:
    loader = node(
        4, "UNETLoader", title="mine",
        inputs=[{"name": "unet_name", "type": "COMBO", "widget": {"name": "unet_name"}, "link": 7}],
        outputs=[{"name": "MODEL", "type": "MODEL", "links": [8, 9]}], widgets_values=["gone.safetensors", "default"],
        properties={"Node name for S&R": "UNETLoader", "cnr_id": "comfy-core", "models": [{"name": "gone.gguf"}]},
    )  # fmt: skip
    loader["mode"] = 4
    content = {
        "version": 0.4, "last_node_id": 4, "last_link_id": 9, "nodes": [loader],
        "links": [[7, 3, 0, 4, 0, "COMBO"], [8, 4, 0, 5, 0, "MODEL"], [9, 4, 0, 6, 0, "MODEL"]],
    }  # fmt: skip
    graph, report = editor.convert_workflow(content)
    (ours,) = graph["nodes"]
    assert graph["links"] == content["links"]
    assert {key: ours[key] for key in ("id", "title", "pos", "size", "mode")} == {
        key: loader[key] for key in ("id", "title", "pos", "size", "mode")
    }
    assert ours["type"] == "GGMLDiffusionModel"
    assert ours["inputs"] == [{"name": "model_name", "type": "COMBO", "widget": {"name": "model_name"}, "link": 7}]
    assert ours["outputs"][0]["links"] == [8, 9]
    assert ours["widgets_values"] == ["gone.safetensors", "auto", "auto", 0, "auto"]
    assert ours["properties"] == {"Node name for S&R": "GGMLDiffusionModel", "models": [{"name": "gone.gguf"}]}
    assert report.lines() == ["UNETLoader (node 4) is now GGMLDiffusionModel."]


@pytest.mark.parametrize(("class_type", "file"), [("UNETLoader", "old.ckpt"), ("VAELoader", "old.pt")])
def test_the_editors_node_stays_where_ours_cannot_read_its_file(class_type: str, file: str) -> None:
    loader = node(4, class_type, outputs=[], inputs=[], widgets_values=[file])
    graph, report = editor.convert_workflow({"nodes": [loader], "links": []})
    assert graph["nodes"] == [loader]
    assert "neither a GGUF nor a safetensors file" in report.kept[0].words


def test_a_link_to_an_input_that_ours_has_not_goes_and_others_stay() -> None:
    loader = node(
        4, "UNETLoader", outputs=[{"name": "MODEL", "type": "MODEL", "links": []}],
        widgets_values=["a.gguf", "default"],
        inputs=[
            {"name": "unet_name", "type": "COMBO", "widget": {"name": "unet_name"}, "link": None},
            {"name": "weight_dtype", "type": "COMBO", "widget": {"name": "weight_dtype"}, "link": 7},
        ],
    )  # fmt: skip
    source = node(3, "PrimitiveNode", outputs=[{"name": "COMBO", "type": "COMBO", "links": [7]}])
    graph, report = editor.convert_workflow({"nodes": [source, loader], "links": [[7, 3, 0, 4, 1, "COMBO"]]})
    assert graph["links"] == []
    assert graph["nodes"][0]["outputs"][0]["links"] == []
    assert "weight_dtype over a link is left out" in report.lines()[1]


def test_a_widget_that_a_subgraphs_node_shows_has_the_value_of_that_node() -> None:
    loader = node(
        2, "VAELoader", inputs=[{"name": "vae_name", "type": "COMBO", "widget": {"name": "vae_name"}, "link": 5}],
        outputs=[{"name": "VAE", "type": "VAE", "links": [6]}], widgets_values=["inner.safetensors"],
    )  # fmt: skip
    subgraph = {
        "id": "s", "nodes": [loader], "inputs": [{"name": "vae_name", "type": "COMBO", "linkIds": [5]}],
        "outputs": [{"name": "VAE", "type": "VAE", "linkIds": [6]}],
        "links": [
            {"id": 5, "origin_id": -10, "origin_slot": 0, "target_id": 2, "target_slot": 0},
            {"id": 6, "origin_id": 2, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }  # fmt: skip
    slot = {"name": "vae_name", "type": "COMBO", "link": None}
    shown = node(7, "s", inputs=[slot], widgets_values=["one.safetensors"])
    plain = node(8, "s", inputs=[], widgets_values=[])
    decode = node(9, "VAEDecode", inputs=[{"name": "vae", "type": "VAE", "link": 1}])
    content = {
        "nodes": [shown, plain, decode], "links": [[1, 7, 0, 9, 0, "VAE"]], "definitions": {"subgraphs": [subgraph]},
    }  # fmt: skip
    read = workflow_file.prompt_of(content)
    assert read["7:2"]["inputs"] == {"vae_name": "one.safetensors"}
    assert read["8:2"]["inputs"] == {"vae_name": "inner.safetensors"}
    assert read["9"]["inputs"] == {"vae": ["7:2", 0]}
    graph, _ = editor.convert_workflow(content)
    assert workflow_file.prompt_of(graph)["7:2"]["inputs"]["vae_name"] == "one.safetensors"


def test_a_node_of_a_pack_that_is_not_there_stays_in_the_prompt() -> None:
    image = {"outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}]}
    sized = [{"name": "image", "type": "IMAGE", "link": 1}]
    content = {
        "nodes": [
            node(1, "EmptyImage", **image), node(2, "MarkdownNote", outputs=[], widgets_values=["text"]),
            node(3, "NoSuchNode", inputs=sized, outputs=[{"name": "w", "type": "INT", "links": [2]}]),
            node(4, "PreviewAny", inputs=[{"name": "source", "type": "*", "link": 2}]),
        ],
        "links": [[1, 1, 0, 3, 0, "IMAGE"], [2, 3, 0, 4, 0, "INT"]],
    }  # fmt: skip
    read = workflow_file.prompt_of(content)
    assert read["3"] == {"class_type": "NoSuchNode", "inputs": {"image": ["1", 0]}}
    assert read["4"]["inputs"] == {"source": ["3", 0]}
    assert "2" not in read
