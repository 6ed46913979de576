"""Language models on a GPU: what they write there, what they take of it, and how they share it with pictures.

`python3 dev.py llama` runs these, with llama.cpp's build for Vulkan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.llm import server_lifetime as serving
from native.llm.memory import compute_buffers, memory_of_model
from native.llm.model import LocalModel, local_model
from native.placement import CPU, MIB
from tests import comfy_server, random_llm, random_projector
from tests.comfy_server import Client, Refused, changed, workflow
from tests.llama_allocations import allocated
from tests.random_llm import Sizes
from tests.unit.test_llm_vision import picture, said

GPU = "Vulkan0"
PLACES = [(GPU, -1), (GPU, 2), (GPU, 1), (GPU, 0)]  # device, layers


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A model of three layers, and its eyes."""
    folder = tmp_path_factory.mktemp("models")
    yield random_llm.write(folder / "m.gguf", Sizes(layers=3)), random_projector.write(folder / "mmproj-m.gguf")
    serving.unload()


def placed(files: tuple[Path, Path], device: str, layers: int = -1, sees: bool = False) -> LocalModel:
    return local_model(str(files[0]), device, layers, 1024, 1, str(files[1]) if sees else None, False)


@pytest.mark.parametrize(("device", "layers"), PLACES)
def test_it_writes_what_it_writes_on_the_cpu(files: tuple[Path, Path], device: str, layers: int) -> None:
    assert said(placed(files, device, layers)) == said(placed(files, CPU))


def test_it_sees_what_it_sees_on_the_cpu(files: tuple[Path, Path]) -> None:
    red, blue = (said(placed(files, GPU, sees=True), picture(colour)) for colour in ("red", "blue"))
    assert red != blue
    assert red == said(placed(files, CPU, sees=True), picture("red"))


@pytest.mark.parametrize(("device", "layers"), PLACES)
def test_what_is_known_beforehand_is_what_is_taken(files: tuple[Path, Path], device: str, layers: int) -> None:
    model = placed(files, device, layers)
    known, buffers = memory_of_model(model), compute_buffers(model)
    taken: Counter[tuple[bool, str]] = Counter()
    for (where, kind), size in allocated(model).items():
        taken[where == GPU, kind] += size
    on_gpu = buffers.get(GPU, 0)
    for what, nbytes in {
        (True, "model"): known.weights, (True, "KV"): known.kv, (False, "KV"): known.kv_on_cpu,
        (True, "compute"): on_gpu, (False, "compute"): sum(buffers.values()) - on_gpu,
    }.items():  # fmt: skip
        assert nbytes / MIB == pytest.approx(taken[what], abs=0.021), what
    # The pages of the file from the first such weight to the last, of which it uses those of the weights.
    assert known.weights_on_cpu / MIB <= taken[False, "model"] + 0.006


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with comfy_server.running(tmp_path_factory.mktemp("comfyui")) as client:
        yield client


def on_the_gpu(**planner: int) -> comfy_server.Workflow:
    """A prompt that is expanded, and drawn with the model that computes on the same GPU."""
    there = {"device": GPU}
    graph = changed(workflow("expand_and_draw"), {"GGMLLanguageModel": there, "GGMLDiffusionModel": there})
    inputs = {"mode": "reject", "gpu_budget": 0, "ram_budget": 0} | planner
    return {**graph, "90": {"class_type": "GGMLMemoryPlanner", "inputs": inputs}}


def test_one_after_the_other_on_one_gpu(comfyui: Client) -> None:
    """The language model is gone before the picture is computed, and both phases are planned on the GPU."""
    plan = comfyui.send("/ggml/plan", {"prompt": on_the_gpu()})
    shares = [phase["devices"].get(GPU, {}).get("shares", {}).get("language model", 0) for phase in plan["phases"]]
    assert shares[0] > 0
    assert not any(shares[1:])
    drawn = comfyui.draw(on_the_gpu())
    assert drawn.shape == (128, 128, 3)
    assert comfyui.child("native.llm") is None


def test_one_that_does_not_fit_is_refused(comfyui: Client) -> None:
    with pytest.raises(Refused, match="does not fit"):
        comfyui.run(on_the_gpu(gpu_budget=1))
