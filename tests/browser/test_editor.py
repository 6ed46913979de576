"""The pack as a person meets it who opens ComfyUI: nodes, templates, the memory panel, badges and settings."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.browser.editor import Editor
from tests.comfy_server import MICRO_MODELS, WORKFLOWS, changed, eventually
from tests.language_servers import MODELS, server_that
from tools.micro_models import INSTEAD, ONLY_REAL

DARK, LIGHT = "dark", "light"

# By hand: where each node is dropped in a window of 1600 x 1000, and what is linked to what.
PLACES = {
    "GGML Diffusion Model": (420, 90), "GGML Text Encoders": (420, 260), "GGML VAE": (420, 540),
    "CLIP Text Encode (Prompt)": (700, 90), "EmptySD3LatentImage": (700, 330), "KSampler": (960, 90),
    "VAE Decode": (1230, 150), "Save Image": (1230, 300),
}  # fmt: skip
LINKS = (
    ("GGMLDiffusionModel", "MODEL", "KSampler", "model"),
    ("GGMLTextEncoders", "CLIP", "CLIPTextEncode", "clip"),
    ("CLIPTextEncode", "CONDITIONING", "KSampler", "positive"),
    ("CLIPTextEncode", "CONDITIONING", "KSampler", "negative"),
    ("EmptySD3LatentImage", "LATENT", "KSampler", "latent_image"),
    ("KSampler", "LATENT", "VAEDecode", "samples"),
    ("GGMLVAE", "VAE", "VAEDecode", "vae"),
    ("VAEDecode", "IMAGE", "SaveImage", "images"),
)
CHOSEN: dict[str, dict[str, Any]] = {
    "GGMLDiffusionModel": {"model_name": "flux1-schnell-micro-Q8_0.gguf"},
    "GGMLTextEncoders": {
        "clip_name1": "t5-micro-encoder-Q8_0.gguf", "clip_name2": "clip_l-micro_fp8_e4m3fn.safetensors",
    },
    "GGMLVAE": {"vae_name": "ae-micro.safetensors"},
    "CLIPTextEncode": {"text": "a green triangle on a white background"},
    "EmptySD3LatentImage": {"width": 128, "height": 128},
    "KSampler": {"steps": 4, "cfg": 1.0, "scheduler": "simple", "seed": 7},
}  # fmt: skip


def open_as(editor: Editor, theme: str = DARK, nodes_2: bool = False, **settings: Any) -> None:
    editor.open(**{"Comfy.ColorPalette": theme, "Comfy.VueNodes.Enabled": nodes_2, **settings})


def plan_of(editor: Editor) -> dict[str, Any]:
    """The server's plan for the editor's graph."""
    plan: dict[str, Any] = editor.client.send("/ggml/plan", {"prompt": editor.prompt()})
    return plan


def named(prompt: dict[str, Any]) -> set[str]:
    """The model files that a prompt names."""
    files = {*INSTEAD, *(file for files in ONLY_REAL.values() for file in files)}
    return {value for node in prompt.values() for value in node["inputs"].values() if str(value) in files}


def run(editor: Editor) -> np.ndarray:
    """Press Run, and the one picture that is made of it."""
    before = set(editor.client.get("/history"))
    editor.find("button", "Run").click()
    (prompt,) = eventually(lambda: set(editor.client.get("/history")) - before, "the picture")
    (image,) = editor.client.pictures(editor.client.wait(prompt))
    return image


def test_a_graph_made_with_the_mouse_draws(editor: Editor) -> None:
    open_as(editor)
    editor.command("Workspace.ToggleSidebarTab.node-library")
    editor.view(0.5)
    search = editor.find("input[placeholder='Search...']")
    for title, place in PLACES.items():
        search.clear()
        search.send_keys(title)
        editor.drag(editor.middle(editor.find("[role=treeitem]", title)), place)
    nodes = editor.nodes()
    assert len(nodes) == len(PLACES)
    for source, output, target, name in LINKS:
        editor.drag(editor.slot(nodes[source], output, output=True), editor.slot(nodes[target], name))
    editor.choose({nodes[kind]: inputs for kind, inputs in CHOSEN.items()})
    graph = editor.prompt()
    for source, _, target, name in LINKS:
        assert graph[nodes[target]]["inputs"][name][0] == nodes[source]
    drawn = run(editor)
    assert np.array_equal(drawn, editor.client.draw(changed(graph, {"SaveImage": {"filename_prefix": "again"}})))
    shown = "return window.app.graph.getNodeById(arguments[0]).imgs?.[0]?.naturalWidth"
    assert eventually(lambda: editor.run(shown, nodes["SaveImage"]), "the picture on the node") == 128


def open_template(editor: Editor, name: str) -> None:
    editor.command("Comfy.BrowseTemplates")
    editor.find("[role=dialog] span", "ggml-vulkan").click()
    card = f"[data-testid=template-workflow-{name}]"
    editor.run("arguments[0].scrollIntoView()", editor.find(card))  # thumbnails out of sight are not loaded
    width = "return document.querySelector(arguments[0])?.naturalWidth"
    assert eventually(lambda: editor.run(width, f"{card} img"), "its thumbnail") > 100
    editor.keep("templates")
    editor.find(card).click()
    eventually(lambda: any(kind.startswith("GGML") for kind in editor.nodes()), "its nodes")


@pytest.mark.parametrize("name", [path.stem for path in sorted(WORKFLOWS.glob("*.json"))])
def test_a_template_opens_and_is_planned(editor: Editor, name: str) -> None:
    """ComfyUI says which of its files are missing."""
    open_as(editor)
    open_template(editor, name)
    editor.find("button", "View details").click()
    for file in named(editor.prompt()):
        editor.find("[data-testid*=missing-model]", file)
    editor.keep("missing")
    editor.open_panel()
    assert re.match("The model file .* is not in any of the folders", editor.planned())
    if name in ONLY_REAL:
        return
    editor.load(name)
    assert editor.planned() == "The workflow fits."
    told = plan_of(editor)
    titles = editor.texts(".ggml-device .ggml-title")
    devices = [device for device, memory in told["devices"].items() if memory["peak"]]
    assert titles == [phase["title"] for phase in told["phases"]] * len(devices)


@pytest.fixture
def files_in_place(editor: Editor) -> Iterator[None]:
    """The micro models, called as the files that the templates name."""
    models = editor.client.server.output.parent / "models"
    placed = []
    for name, micro in INSTEAD.items():
        for file in MICRO_MODELS.glob(f"*/{micro}"):
            placed.append(models / file.parent.name / name)
            placed[-1].parent.mkdir(exist_ok=True)
            shutil.copy(file, placed[-1])
    yield
    for file in placed:
        file.unlink()


@pytest.mark.usefixtures("files_in_place")
def test_a_template_draws_as_it_is_once_its_files_are_there(editor: Editor) -> None:
    open_as(editor)
    open_template(editor, "text_to_image")
    assert run(editor).shape == (512, 512, 3)


def test_refused_advised_and_drawn(editor: Editor) -> None:
    open_as(editor)
    editor.load("text_to_image")
    editor.add("GGMLMemoryPlanner", ram_budget=10)
    editor.find("button", "Run").click()
    apply = editor.find(".ggml-apply")  # the panel opens by itself
    assert "does not fit by" in editor.says(".ggml-verdict")
    assert editor.badge("GGMLMemoryPlanner") == "does not fit"
    assert "64 x 64 pixels" in editor.says(".ggml-advice")
    editor.view(0.62)
    editor.keep("refused")
    apply.click()
    assert editor.planned() == "The workflow fits."
    assert editor.badge("GGMLMemoryPlanner") == "fits"
    assert run(editor).shape == (64, 64, 3)


@pytest.mark.parametrize("nodes_2", [False, True], ids=["canvas", "nodes_2"])
@pytest.mark.parametrize("theme", [DARK, LIGHT])
def test_panel_and_badges_say_what_is_planned_and_measured(editor: Editor, theme: str, nodes_2: bool) -> None:
    open_as(editor, theme, nodes_2)
    editor.load("text_to_image")
    editor.open_panel()
    editor.view(0.62)
    for width in (128, 256):
        editor.choose({editor.nodes()["EmptySD3LatentImage"]: {"width": width}})
        editor.planned()
        told = plan_of(editor)
        peaks = [mib(phase["devices"]["CPU"]["peak"]) for phase in told["phases"]]
        assert editor.texts("[data-device=CPU] .ggml-bytes") == peaks
        for kind in ("GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE"):
            assert editor.badge(kind) == f"CPU · ram · {mib(taken(told, editor.nodes()[kind]))}"
            if nodes_2:
                assert editor.badge(kind) in editor.says(f"[data-node-id='{editor.nodes()[kind]}']")
    editor.client.send("/free", {"unload_models": True, "free_memory": True})
    eventually(lambda: not editor.client.get("/ggml/health")["memory"]["models"], "an empty runner")
    run(editor)

    def bars() -> list[str]:
        return editor.texts("[data-device=CPU] .ggml-bytes")

    eventually(lambda: bars() and all("measured" in bar for bar in bars()), "what was measured", 10)
    for bar in bars():
        planned, took = re.findall(r"([\d,]+) MiB", bar)
        assert took == planned
    editor.load("lora")  # whose nodes have some of the same ids: what was measured is not of this graph
    assert editor.planned() == "The workflow fits."
    eventually(lambda: bars() and not any("measured" in bar for bar in bars()), "bars of this graph alone", 10)


def mib(nbytes: int) -> str:
    return f"{int(nbytes / 2**20 + 0.5):,} MiB"  # as JavaScript rounds


def taken(plan: dict[str, Any], loader: str) -> int:
    """The most that a loader's models take together in one phase."""
    sums = [
        sum(sum(model["bytes"].values()) for model in phase["models"] if model["loader"] == loader)
        for phase in plan["phases"]
    ]
    return max(sums)


def test_a_device_that_is_not_here_opens_and_is_named(editor: Editor) -> None:
    open_as(editor)
    editor.load("text_to_image")
    editor.choose({editor.nodes()["GGMLDiffusionModel"]: {"device": "Vulkan7"}})
    editor.open_panel()
    assert "no device Vulkan7" in editor.planned()
    assert "no device Vulkan7" in editor.says(".p-toast-detail")


def test_new_nodes_begin_with_what_the_settings_say(editor: Editor) -> None:
    open_as(
        editor,
        **{
            "GGML.Device.DiffusionModel": "CPU",
            "GGML.Device.VAE": "Vulkan0",
            "GGML.Language.ServerURL": "http://127.0.0.1:9/v1",
        },
    )
    editor.add("GGMLDiffusionModel")
    editor.add("GGMLLanguageServer")
    editor.add("GGMLVAE")
    assert editor.widget(editor.nodes()["GGMLDiffusionModel"], "device") == "CPU"
    assert editor.widget(editor.nodes()["GGMLLanguageServer"], "url") == "http://127.0.0.1:9/v1"
    assert editor.widget(editor.nodes()["GGMLVAE"], "device") == "Vulkan0"
    editor.add("GGMLTextEncoders")
    assert editor.widget(editor.nodes()["GGMLTextEncoders"], "device") == "auto"  # the node's own
    editor.load("text_to_image")
    assert editor.widget(editor.nodes()["GGMLDiffusionModel"], "device") == "auto"


@pytest.mark.parametrize("nodes_2", [False, True], ids=["canvas", "nodes_2"])
def test_a_model_of_a_server_is_chosen_from_its_list(editor: Editor, nodes_2: bool) -> None:
    open_as(editor, nodes_2=nodes_2)
    editor.load("expand_with_server")
    node = editor.nodes()["GGMLLanguageServer"]
    before = editor.prompt()
    assert set(before[node]["inputs"]) == {"url", "model", "key_variable", "timeout", "after_use"}  # no button

    def ask() -> None:
        if nodes_2:
            editor.find("button", "Models of the server").click()
        else:
            editor.press(node, "Models of the server")

    with server_that(lambda _: None) as url:
        editor.choose({node: {"url": url}})
        ask()
        editor.keep(f"models-of-a-server-{nodes_2}")
        editor.find(".ggml-models button", MODELS[1]).click()
    assert editor.prompt()[node]["inputs"]["model"] == MODELS[1]
    ask()
    editor.find(".ggml-models .ggml-bad", "cannot be reached")
    editor.find(".ggml-models button", "Close").click()
    editor.load("expand_with_server")
    assert editor.prompt() == before


def test_plans_leave_what_the_settings_say(editor: Editor) -> None:
    open_as(editor, **{"GGML.Memory.Reserve": 512})
    editor.load("text_to_image")
    before = plan_of(editor)["devices"]["Vulkan0"]["capacity"]
    open_as(editor, **{"GGML.Memory.Reserve": 1024})
    editor.load("text_to_image")
    assert plan_of(editor)["devices"]["Vulkan0"]["capacity"] == before - (512 << 20)
    open_as(editor, **{"GGML.Memory.Reserve": 512})


@pytest.mark.parametrize(("language", "title"), [("pt-BR", "Dispositivos"), ("zh", "设备")])
def test_in_the_languages_of_the_pack(editor: Editor, language: str, title: str) -> None:
    open_as(editor, **{"Comfy.Locale": language})
    editor.load("text_to_image")
    editor.open_panel()
    editor.find(".ggml-monitor h3", title)


def test_the_monitor_shows_every_device(editor: Editor) -> None:
    open_as(editor)
    editor.load("text_to_image")
    editor.open_panel()
    for device in editor.client.get("/ggml/devices")["devices"]:
        row = editor.says(f"[data-monitored={device['name']}]")
        assert device["description"] in row
        assert device["driver"] in row
        assert re.search(r"[\d,]+ MiB free of [\d,]+ MiB", row)
