"""Prompts that language models write, in a real ComfyUI: on this machine and by a server, into the picture."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import psutil
import pytest

from tests import comfy_server, random_llm, random_projector
from tests.comfy_server import (
    Client,
    Interrupted,
    Job,
    JobFailed,
    Refused,
    Workflow,
    changed,
    eventually,
    node_id,
    workflow,
)
from tests.e2e.test_workflows_nodes import added
from tests.language_servers import asked, endless, real_server, send, server_that, stream
from tests.micro.checker import find_shapes

EXPAND = changed(workflow("expand_and_draw"), {"GGMLLanguageModel": {"threads": 1}})
WITH_SERVER = workflow("expand_with_server")
EXPANDER = node_id(EXPAND, "GGMLPromptExpander")
KEPT = EXPAND[EXPANDER]["inputs"]["must_keep"]
KEY, VARIABLE = "sk-the-key-of-this-test", "GGML_LLM_E2E_KEY"
BOUND, ADDRESSES = "GGML_LLM_E2E_SHOP_KEY", "GGML_LLM_E2E_SHOP_URL"


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that was started with a key, and one that is for another server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ((VARIABLE, KEY), (BOUND, KEY), (ADDRESSES, "https://api.shop.example/v1")):
            patch.setenv(name, value)
        with comfy_server.running(tmp_path_factory.mktemp("comfyui")) as client:
            yield client


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real OpenAI-compatible server that wants the key."""
    with real_server(random_llm.write(tmp_path_factory.mktemp("models") / "remote.gguf"), KEY) as url:
        yield url


def told(base: Workflow) -> Workflow:
    """With nodes that put out what the expander made."""
    return added(
        base, **{f"n{20 + output}": ("PreviewAny", {"source": [EXPANDER, output]}) for output in range(3)}
    )  # fmt: skip


def texts(job: Job) -> list[str]:
    """The expander's prompt, negative prompt and answer."""
    return [job.outputs[str(20 + output)]["text"][0] for output in range(3)]


def chat(**inputs: Any) -> Workflow:
    """A question to the tiny model and nothing else."""
    asked = {"system": "", "text": "hello", "seed": 1, "temperature": 1.0, "max_tokens": 40, "llm": ["1", 0]}
    return {
        "1": EXPAND[node_id(EXPAND, "GGMLLanguageModel")],
        "2": {"class_type": "GGMLChat", "inputs": asked | inputs},
    }


def request_of(url: str, **inputs: Any) -> Workflow:
    """A question to a server."""
    server = {"url": url, "model": "m", "key_variable": "", "timeout": 60}
    return chat(**inputs) | {"1": {"class_type": "GGMLLanguageServer", "inputs": server}}


def language_model(comfyui: Client) -> psutil.Process | None:
    return comfyui.child("native.llm")


def unload(comfyui: Client, cache: bool = False) -> None:
    """Have ComfyUI unload all models; it may overlook one request, just after a prompt has ended."""

    for _ in range(3):
        comfyui.send("/free", {"unload_models": True, "free_memory": cache})
        with suppress(TimeoutError):
            eventually(lambda: language_model(comfyui) is None, patience=5)
            return
    raise AssertionError("the language model is still there")


def test_the_memory_comes_back(comfyui: Client) -> None:
    """ComfyUI holds after twelve language models what it held after two, within 2 %; no picture was drawn yet."""

    def cycle(seed: int) -> int:
        comfyui.run(chat(seed=seed))
        assert language_model(comfyui) is not None
        unload(comfyui)
        return int(psutil.Process(comfyui.server.process.pid).memory_full_info().uss)

    held = [cycle(100 + number) for number in range(12)]
    assert held[-1] <= 1.02 * held[1], held


def test_the_expansion_reaches_the_picture(comfyui: Client) -> None:
    """It is what the expanded prompt draws by itself, not what the idea does, and shows what must be kept."""
    job = comfyui.run(told(EXPAND))
    assert language_model(comfyui) is None  # it made way for the picture
    prompt, _, answer = texts(job)
    assert prompt.startswith(f"{KEPT}, ")
    assert len(prompt) > len(KEPT) + 10
    assert answer.startswith('{"prompt": "')
    (drawn,) = comfyui.pictures(job)
    (shape,) = find_shapes(drawn.astype(np.float32))[0]
    assert (shape.colour, shape.kind) == ("red", "circle")
    by_hand, by_idea = (
        comfyui.draw(changed(workflow("text_to_image"), {"CLIPTextEncode": {"text": text}})) for text in (prompt, KEPT)
    )
    np.testing.assert_array_equal(drawn, by_hand)
    assert not np.array_equal(drawn, by_idea)


def test_a_seed_gives_one_text_and_is_asked_once(comfyui: Client) -> None:
    def run(seed: int, noise: int) -> Job:
        changes = {"GGMLPromptExpander": {"seed": seed}, "KSampler": {"seed": noise, "steps": 1}}
        return comfyui.run(told(changed(EXPAND, changes)))

    first = run(1 << 63, 1)
    again = run(1 << 63, 2)
    assert EXPANDER in again.cached
    other = run(7, 3)
    assert EXPANDER not in other.cached
    assert texts(other) != texts(first)
    unload(comfyui, cache=True)
    once_more = run(1 << 63, 4)
    assert EXPANDER not in once_more.cached
    assert texts(once_more) == texts(first)


def test_a_changed_file_is_asked_anew(comfyui: Client) -> None:
    asked = chat(seed=50)
    comfyui.run(asked)
    assert "2" in comfyui.run(asked).cached
    path = comfyui.server.output.parent / "models" / "LLM" / random_llm.NAME
    random_llm.write(path, seed=1)
    try:
        assert "2" not in comfyui.run(asked).cached
    finally:
        random_llm.write(path)


def test_text_and_progress_appear_while_it_is_written(comfyui: Client) -> None:
    seen = comfyui.follow(changed(EXPAND, {"GGMLPromptExpander": {"seed": 60}, "KSampler": {"steps": 1}}))
    shown = [data["text"] for kind, data in seen if kind == "progress_text" and data["node"] == EXPANDER]
    assert len(shown) > 2
    assert shown[-2].startswith(shown[0])
    assert shown[0] != shown[-2]
    assert shown[-1].startswith(KEPT)
    progress = [data["value"] for kind, data in seen if kind == "progress" and data["node"] == EXPANDER]
    assert progress == sorted(progress)
    assert progress[-1] > 1


def test_unloading_models_ends_one_that_is_kept(comfyui: Client) -> None:
    kept = changed(chat(seed=70), {"GGMLLanguageModel": {"after_use": "keep"}})
    comfyui.run(kept)
    before = language_model(comfyui)
    assert before is not None
    comfyui.run(changed(kept, {"GGMLChat": {"seed": 71}}))
    assert language_model(comfyui) == before
    comfyui.draw(changed(workflow("text_to_image"), {"KSampler": {"seed": 70, "steps": 1}}))
    assert language_model(comfyui) == before
    unload(comfyui)
    comfyui.run(changed(kept, {"GGMLChat": {"seed": 72}}))
    assert language_model(comfyui) is not None


def test_an_interrupt_ends_the_writing(comfyui: Client) -> None:
    gone = threading.Event()

    def interrupt(kind: str, data: Any) -> None:
        if kind == "progress_text" and data["text"].startswith("word"):
            comfyui.send("/interrupt", {})

    with server_that(endless("word ", gone)) as url:
        seen = comfyui.follow(request_of(url), interrupt)
        (prompt,) = {data["prompt_id"] for kind, data in seen if kind == "execution_interrupted"}
        with pytest.raises(Interrupted):
            comfyui.wait(prompt)
        assert gone.wait(30)  # the connection is closed
    assert comfyui.run(chat(seed=200)).outputs["2"]["text"][0]


def test_a_server_expands_and_its_key_is_nowhere(comfyui: Client, remote: str) -> None:
    server = {"url": remote, "key_variable": VARIABLE}
    asked = changed(WITH_SERVER, {"GGMLLanguageServer": server, "GGMLPromptExpander": {"on_failure": "stop"}})
    seen = comfyui.follow(told(asked))
    job = comfyui.wait(seen[0][1]["prompt_id"])
    prompt, _, answer = texts(job)
    assert prompt.startswith(KEPT)
    assert len(answer) > len(KEPT) > 0
    named = [data["text"] for kind, data in seen if kind == "progress_text"]
    assert any(text.startswith("models: ") and "remote.gguf" in text for text in named)
    with pytest.raises(JobFailed, match="answered 401") as failed:
        comfyui.run(changed(asked, {"GGMLLanguageServer": {"key_variable": ""}}))
    (image,) = job.outputs[node_id(asked, "SaveImage")]["images"]
    file = comfyui.server.get(f"/view?{urllib.parse.urlencode(image)}")
    assert VARIABLE.encode() in file  # the workflow is in the picture
    everything = [file, comfyui.server.log.read_bytes(), str((seen, failed.value)).encode()]
    everything.append(comfyui.server.get("/history"))
    assert all(KEY.encode() not in each for each in everything)


@pytest.mark.parametrize("after_use", ["release", "keep"])
def test_a_server_unloads_its_model_before_the_picture(comfyui: Client, after_use: str) -> None:
    """As Ollama does; and its answer is where LM Studio puts it."""
    loaded, unloaded = ["m"], []

    def lists(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, json.dumps({"models": [{"model": model} for model in loaded]}))

    def responds(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/api/generate":
            unloaded.append(asked(handler))
            loaded.clear()
        answer = json.dumps({"prompt": KEPT, "negative": "\u202eblur"})
        delta = {"content": "", "reasoning_content": answer}
        send(handler, 200, stream({"choices": [{"delta": delta}]}), "text/event-stream")

    with server_that(responds, lists) as url:
        server = {"url": url, "model": "m", "after_use": after_use}
        seed = 400 + (after_use == "keep")
        changes = {"GGMLLanguageServer": server, "GGMLPromptExpander": {"seed": seed, "on_failure": "stop"}}
        job = comfyui.run(told(changed(WITH_SERVER, {**changes, "KSampler": {"seed": seed, "steps": 1}})))
    assert texts(job)[:2] == [KEPT, "blur"]
    assert unloaded == ([{"model": "m", "keep_alive": 0}] if after_use == "release" else [])


def test_the_models_of_a_server_are_listed_before_anything_runs(comfyui: Client, remote: str) -> None:
    asked = {"url": remote, "key_variable": VARIABLE}
    (model,) = comfyui.send("/ggml/language_models", asked)["models"]
    assert model.endswith("remote.gguf")
    for wrong, said in (
        ({"key_variable": ""}, "answered 401"), ({"key_variable": "HOME"}, "begin with GGML_LLM_"),
        ({"url": "http://127.0.0.1:9/v1"}, "cannot be reached"), ({"url": 7}, "the body must be"),
        ({"url": "file:///etc/passwd"}, "is not a server address"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=said):
            comfyui.send("/ggml/language_models", asked | wrong)


def test_a_key_is_not_sent_where_a_workflow_says(comfyui: Client) -> None:
    """Typed, linked, or in a request; what is asked for in each case is not even connected to."""
    asked: list[str] = []
    with server_that(lambda handler: asked.append(handler.path), lambda handler: asked.append(handler.path)) as url:
        elsewhere = {"url": url, "key_variable": BOUND}
        typed = changed(WITH_SERVER, {"GGMLLanguageServer": elsewhere})
        linked = changed(typed, {"GGMLLanguageServer": {"url": ["address", 0]}})
        linked["address"] = {"class_type": "PrimitiveString", "inputs": {"value": url}}
        said = []
        for graph in (typed, linked):
            with pytest.raises((Refused, JobFailed)) as failed:
                comfyui.run(changed(graph, {"GGMLPromptExpander": {"on_failure": "stop"}}))
            said.append(str(failed.value))
        with pytest.raises(Refused) as refused:
            comfyui.send("/ggml/language_models", elsewhere)
        said.append(str(refused.value))
    assert not asked
    for each in said:
        assert f"The key in {BOUND} goes only to the addresses in {ADDRESSES}, and {url} is none of them" in each
        assert KEY not in each


def test_without_the_server_the_idea_is_drawn_or_the_workflow_stops(comfyui: Client) -> None:
    down = changed(WITH_SERVER, {"GGMLLanguageServer": {"url": "http://127.0.0.1:9/v1"}})
    prompt, negative, answer = texts(comfyui.run(told(changed(down, {"KSampler": {"steps": 1}}))))
    assert (prompt, negative, answer) == (KEPT, "", "")
    with pytest.raises(JobFailed, match="cannot be reached") as failed:
        comfyui.run(changed(down, {"GGMLPromptExpander": {"on_failure": "stop"}}))
    assert failed.value.node == EXPANDER


def test_a_picture_reaches_the_model(comfyui: Client, remote: str) -> None:
    """This one cannot see, and says so."""
    picture = {"3": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}}}
    asked = changed(request_of(remote, image=["3", 0]), {"GGMLLanguageServer": {"key_variable": VARIABLE}})
    with pytest.raises(JobFailed, match="image input is not supported"):
        comfyui.run(asked | picture)


def test_a_model_file_that_is_damaged_stops_at_its_node(comfyui: Client) -> None:
    folder = comfyui.server.output.parent / "models" / "LLM"
    (folder / "damaged.gguf").write_bytes((folder / random_llm.NAME).read_bytes()[:100_000])
    comfyui.get("/object_info/GGMLLanguageModel")
    with pytest.raises(JobFailed, match="incomplete or damaged") as failed:
        comfyui.run(changed(chat(), {"GGMLLanguageModel": {"model_name": "damaged.gguf"}}))
    assert failed.value.node == "1"


def test_nothing_but_loopback_listens(comfyui: Client) -> None:
    comfyui.run(changed(chat(seed=300), {"GGMLLanguageModel": {"after_use": "keep"}}))
    model = language_model(comfyui)
    assert model is not None
    listening = [each for each in model.net_connections() if each.status == psutil.CONN_LISTEN]
    assert [each.laddr.ip for each in listening] == ["127.0.0.1"]


def test_a_chat_about_a_picture(comfyui: Client) -> None:
    """Other pictures, other answers; a model without eyes says so."""

    def asked(colour: int, projector: str = random_projector.NAME) -> Workflow:
        graph = changed(chat(temperature=0.0, image=["3", 0]), {"GGMLLanguageModel": {"projector": projector}})
        size = {"width": 64, "height": 64, "batch_size": 1}
        return {**graph, "3": {"class_type": "EmptyImage", "inputs": {**size, "color": colour}}}

    red, blue = (comfyui.run(asked(colour)).outputs["2"]["text"][0] for colour in (0xFF0000, 0x0000FF))
    assert red != blue
    with pytest.raises(JobFailed):
        comfyui.run(asked(0xFF0000, "none"))
