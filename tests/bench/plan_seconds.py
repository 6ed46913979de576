"""Seconds as a plan tells them beside those that the workflow took, over 40 small workflows.

    COMFYUI_PATH=... python -m tests.bench.plan_seconds [--count N] [--device CPU]

A real server with the micro models computes with one thread, and the rates are measured just before with as many, so
that processor time is what the workflow would take alone; what else the machine does is in neither figure. Each
workflow runs twice, with another seed; the second run counts, in which nothing is traced or loaded. Prints the ratio of
each, and how many are within 25 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import psutil

from native.client import Runner
from native.engines.rate_measurement import measure
from native.ggml_build import installed_version
from native.placement import CPU
from native.planning.rates_file import RatesKey, write_rates
from tests import comfy_server
from tests.comfy_server import Client, Workflow, changed, workflow

ONE_THREAD = {"GGML_CPU_THREADS": "1", "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
FILES = ("flux1-schnell-micro-F16.gguf", "flux1-schnell-micro-Q4_0.gguf", "flux1-schnell-micro-Q8_0.gguf")
SAMPLED = (("euler", 12), ("heun", 6), ("dpmpp_2m", 20))
WITHIN = 0.25
_SELDOM = 2.0  # seconds between questions, which the server answers with the processor that is looked at


def main() -> None:
    """Measures the rates, then runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--device", action="append", help="once or more; CPU and Vulkan0 unless said")
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)
    ratios = []
    with tempfile.TemporaryDirectory() as folder, comfy_server.running(Path(folder)) as client:
        devices = options.device or [CPU, "Vulkan0"]
        _rates(Path(folder) / "user" / "ggml_rates.json", devices)
        for name, graph in list(_workflows(devices))[: options.count]:
            planned, taken = _planned_and_taken(client, graph)
            ratios.append(planned / taken)
            print(f"{planned / taken:5.2f}  {planned:7.2f} s planned, {taken:7.2f} taken  {name}", flush=True)
    close = sum(abs(ratio - 1) <= WITHIN for ratio in ratios)
    print(f"{close} of {len(ratios)} within {WITHIN:.0%}; median {statistics.median(ratios):.2f}")


def _rates(path: Path, devices: list[str]) -> None:
    runner = Runner(("--threads", "1"))
    for device in [each for each in runner.devices() if each.name in devices]:
        threads = 1 if device.type == CPU else 0
        key = RatesKey(device.description, device.driver, installed_version(), threads)
        write_rates(path, key, measure(runner, device))
    runner.close()


def _workflows(devices: list[str]) -> Iterator[tuple[str, Workflow]]:
    """Of all combinations some, in an order that alternates."""
    engines = [(device, engine) for device in devices for engine in (("ggml", "torch") if device == CPU else ("ggml",))]
    every = list(product((256, 384, 512), SAMPLED, FILES, engines, (1, 2)))
    step = 7  # coprime with their number, so that all of them come once
    for number in range(len(every)):
        side, (sampler, steps), file, (device, engine), batch = every[number * step % len(every)]
        name = f"{file} {side} x {side} x {batch}, {steps} steps of {sampler}, {engine} on {device}"
        yield name, changed(workflow("text_to_image"), {
            "GGMLDiffusionModel": {"model_name": file, "device": device, "engine": engine},
            "GGMLTextEncoders": {"device": device, "engine": engine},
            "GGMLVAE": {"device": device, "engine": engine},
            "EmptySD3LatentImage": {"width": side, "height": side, "batch_size": batch},
            "KSampler": {"sampler_name": sampler, "steps": steps},
        })  # fmt: skip


def _planned_and_taken(client: Client, graph: Workflow) -> tuple[float, float]:
    plan = client.send("/ggml/plan", {"prompt": graph})
    seconds: Any = plan["seconds"]
    assert seconds is not None, plan["rates"]
    client.run(changed(graph, {"KSampler": {"seed": 1}}))
    before = _processor_seconds(client)
    prompt = client.queue(changed(graph, {"KSampler": {"seed": 2}}))
    while not client.get(f"/history/{prompt}"):
        time.sleep(_SELDOM)
    return seconds, _processor_seconds(client) - before


def _processor_seconds(client: Client) -> float:
    server = psutil.Process(client.server.process.pid)
    times = [each.cpu_times() for each in (server, *server.children(recursive=True))]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
