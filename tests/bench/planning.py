"""How long the planner takes for FLUX.1 and all that goes with it at 1024x1024, and whether ComfyUI answers meanwhile.

    COMFYUI_PATH=... python -m tests.bench.planning

A real server with files of the real size and structure over zeros; nothing is run. Prints seconds, the first time and
once seen, and how long GET /queue took at most while it planned, beside the same in a server that does nothing.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests import comfy_server
from tests.comfy_server import Client, Refused, changed, workflow

from . import real_size_files

FILES = {
    "diffusion_models": ("flux1-schnell-random-Q4_K.gguf", "flux1-schnell-random-Q8_0.gguf"),
    "text_encoders": ("t5-v1_1-xxl-encoder-random-Q8_0.gguf", "clip_l-random-F16.safetensors"),
    "vae": ("ae-random-F32.safetensors",),
}
AGAIN = 5  # times
_PAUSE = 0.02  # seconds between two looks at the server


def main() -> None:
    """Measures and prints."""
    print(f"{psutil.cpu_count()} processors, other processes {psutil.cpu_percent(1.0):.0f} %")
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for kind, names in FILES.items():
            (models / kind).mkdir(parents=True)
            for name in names:
                real_size_files.write(models / kind / name, real_size_files.FILES[name](), hollow=True)
        for what in ("accepted", "rejected"):
            with comfy_server.running(Path(folder) / what, models) as client:
                _measure(client, what)


def _measure(client: Client, what: str) -> None:
    with _looking(client) as idle:
        time.sleep(3.0)
    ask = _accepted if what == "accepted" else _rejected
    seconds, slowest = [], []
    for _ in range(1 + AGAIN):
        with _looking(client) as looks:
            start = time.perf_counter()
            ask(client)
            seconds.append(time.perf_counter() - start)
        slowest.append(max(looks, default=0.0))
    print(
        f"{what}: {seconds[0]:.2f} s the first time, {statistics.median(seconds[1:]) * 1000:.0f} ms once seen "
        f"(slowest {max(seconds[1:]) * 1000:.0f}); the server's slowest answer meanwhile {max(slowest) * 1000:.0f} ms, "
        f"idle {max(idle) * 1000:.0f}"
    )


def _graph(**planner: Any) -> dict[str, Any]:
    names = {
        "GGMLDiffusionModel": {"model_name": FILES["diffusion_models"][0]},
        "GGMLTextEncoders": {"clip_name1": FILES["text_encoders"][0], "clip_name2": FILES["text_encoders"][1]},
        "GGMLVAE": {"vae_name": FILES["vae"][0]},
        "EmptySD3LatentImage": {"width": 1024, "height": 1024},
    }
    graph = changed(workflow("text_to_image"), names)
    graph["90"] = {"class_type": "GGMLMemoryPlanner", "inputs": {"mode": "reject", **planner}}
    return graph


def _accepted(client: Client) -> None:
    """By the API, which runs nothing; to post it would."""
    plan = client.send("/ggml/plan", {"prompt": _graph(), "profile": "RX 580 8 GB, Linux"})
    assert plan["fits"], plan


def _rejected(client: Client) -> None:
    graph = changed(_graph(hardware="RX 580 8 GB, Linux"), {
        "GGMLDiffusionModel": {"model_name": FILES["diffusion_models"][1], "weights": "device"},
    })  # fmt: skip
    try:
        client.queue(graph)
    except Refused:
        return
    raise AssertionError("it was not refused")


@contextmanager
def _looking(client: Client) -> Iterator[list[float]]:
    """Seconds that the server took to answer, each time it was asked meanwhile."""
    taken: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(_PAUSE):
            start = time.perf_counter()
            client.get("/queue")
            taken.append(time.perf_counter() - start)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        yield taken
    finally:
        done.set()
        looker.join()


if __name__ == "__main__":
    os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0")
    main()
