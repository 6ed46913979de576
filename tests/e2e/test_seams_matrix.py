"""Every component in every placement and size: planned beside taken, accepted and rejected beside forced.

A run takes one fifth of the combinations, another one each day of the year; `--all` takes all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FIFTHS
from tests.pack import part
from tests.runner_toys import new_runner

from .allocation import stopping

planner, requests = part("nodes.planner.planner"), part("nodes.planner.request")
client, host = part("native.client.runner"), part("nodes.components.host")
diffusion, encoders, vae_nodes = (
    part("nodes.loaders.diffusion"),
    part("nodes.loaders.text_encoders"),
    part("nodes.loaders.vae"),
)

import comfy_extras.nodes_sd3  # noqa: E402

import nodes as core  # noqa: E402

core.NODE_CLASS_MAPPINGS["EmptySD3LatentImage"] = comfy_extras.nodes_sd3.EmptySD3LatentImage

MICRO = Path(__file__).parents[1] / "micro" / "models"
MIB = 1 << 20
ENOUGH = 1 << 40
LARGE = 64 * MIB  # of the GPU
SMALL = (2 * MIB, 5 * MIB, 12 * MIB)
DEVICES = ("CPU", "Vulkan0")
RESIDENCIES = ("auto", "device", "ram", "disk")
FLUX = tuple(f"flux1-schnell-micro-{stored}.gguf" for stored in ("F16", "Q8_0", "Q4_0"))
T5 = tuple(f"t5-micro-encoder-{stored}.gguf" for stored in ("Q8_0",))
SIZES = ((64, 64, 1), (96, 64, 2), (128, 128, 1))  # width, height, batch
TILINGS = (("auto", 0), ("off", 0), ("on", 64))

Case = tuple[str, dict[str, Any]]  # the phase, and what differs from the usual workflow


def encoding(device: str) -> Iterator[Case]:
    for clip, weights, text in product(T5, RESIDENCIES, ("a red circle", "a red circle " * 60)):
        chosen = {"clip_name1": clip, "device": device, "weights": weights}
        yield "Encoding the prompt", {"encoders": chosen, "text": text}


def sampling(device: str) -> Iterator[Case]:
    for file, weights, size in product(FLUX, RESIDENCIES, SIZES):
        yield "Sampling", {"model": {"model_name": file, "device": device, "weights": weights}, "size": size}


def decoding(device: str) -> Iterator[Case]:
    sizes = (*SIZES, (192, 64, 1), (160, 160, 1), (64, 128, 3))
    for weights, (tiling, tile), size in product(RESIDENCIES, TILINGS, sizes):
        vae = {"device": device, "weights": weights, "tiling": tiling, "tile_size": tile}
        yield "Decoding the picture", {"vae": vae, "size": size}


def encoding_a_picture(device: str) -> Iterator[Case]:
    for weights, (tiling, tile), size in product(RESIDENCIES, TILINGS, SIZES):
        vae = {"device": device, "weights": weights, "tiling": tiling, "tile_size": tile}
        yield "Encoding the picture", {"vae": vae, "size": size}


MATRIX = {
    (kind.__name__, device): list(kind(device))
    for kind, device in product((encoding, sampling, decoding, encoding_a_picture), DEVICES)
}


def sample(number: int) -> dict[tuple[str, str], list[Case]]:
    """Every fifth case of each kind and device: 5 divides none of a kind's counts of choices, so each comes in turn."""
    return {key: cases[(number + turn) % FIFTHS :: FIFTHS] for turn, (key, cases) in enumerate(MATRIX.items())}


def workflow(phase: str, case: dict[str, Any]) -> dict[str, Any]:
    """The part of text to picture that ends with the case's phase; what leads there is small and on the CPU."""
    here = {"device": "CPU", "weights": "ram", "engine": "ggml", "budget": 0}
    size = dict(zip(("width", "height", "batch_size"), case.get("size", SIZES[0]), strict=True))
    graph: dict[str, Any] = {
        "1": {"class_type": "GGMLDiffusionModel", "inputs": {"model_name": FLUX[2], **here, **case.get("model", {})}},
        "2": {"class_type": "GGMLTextEncoders",
              "inputs": {"clip_name1": T5[0], "clip_name2": "clip_l-micro_fp8_e4m3fn.safetensors", **here,
                         **case.get("encoders", {})}},
        "3": {"class_type": "GGMLVAE",
              "inputs": {"vae_name": "ae-micro.safetensors", "tiling": "auto", "tile_size": 0, "overlap": 16, **here,
                         **case.get("vae", {})}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": case.get("text", "a circle")}},
        "5": {"class_type": "EmptySD3LatentImage", "inputs": size},
        "6": {"class_type": "KSampler",
              "inputs": {"model": ["1", 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": ["5", 0],
                         "seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
                         "denoise": 1.0}},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["3", 0]}},
        "8": {"class_type": "EmptyImage", "inputs": {**size, "color": 0}},
        "9": {"class_type": "VAEEncode", "inputs": {"pixels": ["8", 0], "vae": ["3", 0]}},
    }  # fmt: skip
    ends = {"Encoding the prompt": "4", "Sampling": "6", "Decoding the picture": "7", "Encoding the picture": "9"}
    return {**graph, "end": {"class_type": "NoSuchNode", "inputs": {"last": [ends[phase], 0]}}}


def run(phase: str, graph: dict[str, Any]) -> None:
    """The phase in ComfyUI's own nodes, after what leads there; on the GPU nothing is computed."""
    inputs = {node: made["inputs"] for node, made in graph.items()}
    size = inputs["5"]
    shape = size["batch_size"], size["height"], size["width"]
    if phase in ("Encoding the prompt", "Sampling"):
        (clip,) = encoders.GGMLTextEncoders.execute(**inputs["2"]).result
        (conditioning,) = core.CLIPTextEncode().encode(clip, inputs["4"]["text"])
    latent = {"samples": torch.zeros(shape[0], 16, shape[1] // 8, shape[2] // 8)}
    if phase == "Sampling":
        (model,) = diffusion.GGMLDiffusionModel.execute(**inputs["1"]).result
        core.common_ksampler(model, 1, 1, 1.0, "euler", "simple", conditioning, conditioning, latent)
    elif phase != "Encoding the prompt":
        (vae,) = vae_nodes.GGMLVAE.execute(**inputs["3"]).result
        if phase == "Decoding the picture":
            core.VAEDecode().decode(vae, latent)
        else:
            core.VAEEncode().encode(vae, torch.zeros(*shape, 3))


def measuring(call: Callable[..., Any], real: Any, most: dict[str, int]) -> Callable[..., Any]:
    """Runner.load or Runner.run that notes the most that `real` held meanwhile."""

    def measured(runner: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return call(runner, *arguments, **named)
        finally:
            if runner is real:
                most.update({name: max(most.get(name, 0), nbytes) for name, nbytes in runner.peaks.items()})

    return measured


@contextmanager
def runners(limit: int) -> Iterator[Any]:
    """A runner that computes on a GPU of so many bytes, and one for dry runs."""
    toys = [new_runner("--device-memory", str(limit), "--largest-segment", "4e7") for _ in range(2)]
    real, dry_runner = (client.Runner(toy._options, toy._environment) for toy in toys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_shared", real)
        patch.setattr(planner, "_runner", dry_runner)
        patch.setattr(client.Runner, "run", stopping(client.Runner.run))
        for module in (diffusion, encoders, vae_nodes):
            patch.setattr(module, "model_path", lambda kind, name: str(MICRO / kind / name))
        with torch.inference_mode():
            yield real
    real.close()
    dry_runner.close()


def planned(graph: dict[str, Any], limit: int) -> Any:
    return planner.make_plan(graph, requests.PlanRequest(requests.WARN, gpu_budget=limit, ram_budget=ENOUGH)).plan


def empty(real: Any) -> None:
    """Nothing is held any more."""
    for each in host.COMFYUI.lifetimes:
        each.unload()
    assert not real.memory().models


@pytest.fixture(scope="module")
def large() -> Iterator[Any]:
    with runners(LARGE) as real:
        yield real


def test_the_matrix_is_large() -> None:
    assert sum(map(len, MATRIX.values())) >= 300


@pytest.mark.parametrize("number", range(FIFTHS))
def test_a_sample_has_every_choice_on_every_device(number: int) -> None:
    """Also every residency with every tiling."""
    chosen = sample(number)
    assert 55 <= sum(map(len, chosen.values())) <= 65
    for device in DEVICES:
        sampled, decoded = ([case for _, case in chosen[kind, device]] for kind in ("sampling", "decoding"))
        assert {case["model"]["weights"] for case in sampled} == set(RESIDENCIES)
        assert {case["model"]["model_name"] for case in sampled} == set(FLUX)
        assert {case["size"] for case in sampled} == set(SIZES)
        assert {(case["vae"]["weights"], case["vae"]["tiling"]) for case in decoded} == set(
            product(RESIDENCIES, [tiling for tiling, _ in TILINGS])
        )
        assert {case["size"] for case in decoded} > set(SIZES)


@pytest.mark.parametrize("key", list(MATRIX), ids=" on ".join)
def test_planned_is_what_is_taken(large: Any, key: tuple[str, str], request: pytest.FixtureRequest) -> None:
    chosen = MATRIX if request.config.getoption("--all") else sample(request.config.getoption("--sample") % FIFTHS)
    for phase, case in chosen[key]:
        graph = workflow(phase, case)
        plan = planned(graph, LARGE)
        assert plan.shortage is None, (case, plan.shortage)
        assert plan.phases[-1].title == phase
        most = dict.fromkeys(DEVICES, 0)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("load", "run"):
                patch.setattr(client.Runner, name, measuring(getattr(client.Runner, name), large, most))
            run(phase, graph)
        assert most == {device: max(each.peak[device] for each in plan.phases) for device in DEVICES}, case
        empty(large)


@pytest.mark.turns(3)
@pytest.mark.parametrize("limit", SMALL)
def test_what_is_accepted_allocates_and_what_is_rejected_does_not(limit: int) -> None:
    cases = [*MATRIX["sampling", "Vulkan0"][::3], *MATRIX["decoding", "Vulkan0"][::5]]
    outcomes = []
    with runners(limit) as real:
        for phase, case in cases:
            graph = workflow(phase, case)
            plan = planned(graph, limit)
            outcomes.append(plan.shortage is None)
            if plan.shortage is None:
                run(phase, graph)
            else:
                with pytest.raises(Exception, match="Vulkan0|fit") as caught:
                    run(phase, graph)
                if case.get("vae", {}).get("tiling") != "auto":  # where ComfyUI then tries tiles of its own
                    assert plan.shortage.message in str(caught.value), case
            empty(real)
    assert len(set(outcomes)) == 2 or limit in (SMALL[0], SMALL[-1])
