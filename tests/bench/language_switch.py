"""Measures the switch between a language model and the diffusion model, each unloaded before the other is loaded.

    COMFYUI_PATH=... python -m tests.bench.language_switch --flux FILE --llm FILE [--size 64] [--rounds 3]

Both files are read once before, so that they are in the page cache. FILE of --llm is written where there is none: a
Llama of 8 B random parameters in Q4_K.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from native.runner.cpu_cores import physical_cores
from tests import pack, random_llm

from . import ours

serving = pack.part("native.llm.server_lifetime")
requests = pack.part("native.llm.requests")
chat = pack.part("native.llm.chat")
local_model = pack.part("native.llm.model").local_model

import comfy.model_management  # noqa: E402

MIB = 1 << 20
_TOKENS = 8


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    for file in ("flux", "llm"):
        parser.add_argument(f"--{file}", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64, help="pixels of the picture, on both sides")
    parser.add_argument("--device", default="CPU", help="where the diffusion model computes")
    parser.add_argument("--weights", default="ram", help="where its node keeps them")
    parser.add_argument("--engine", default="ggml")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not options.llm.exists():
        random_llm.write(options.llm, random_llm.LLAMA_8B)
    _read(options.flux, options.llm)
    model = local_model(str(options.llm), "CPU", -1, 4096, 0, None, False)
    flux = ours.diffusion(options)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - started)

    ours._sample(flux, options.size, 1)  # traces
    for _ in range(options.rounds):
        timed("a step", lambda: ours._sample(flux, options.size, 1))
        timed("diffusion model given back", comfy.model_management.unload_all_models)
        before = psutil.virtual_memory().available
        timed("language model to ready", lambda: serving.with_server(model, lambda _: None, _never))
        timed("a first token", lambda: _ask(model, 1))
        timed(f"{_TOKENS} tokens", lambda: _ask(model, _TOKENS))
        held = psutil.Process(serving.running().pid).memory_info()
        timed("language model given back", serving.unload_if_idle)
        left = before - psutil.virtual_memory().available  # also what others took meanwhile
        timed("a step after it", lambda: ours._sample(flux, options.size, 1))
        comfy.model_management.load_models_gpu([flux])
        own = held.rss - held.shared
        print(f"language model: {held.rss / MIB:.0f} MiB, {own / MIB:.0f} not the file's; still taken {left / MIB:.0f}")
    best = {name: min(values) for name, values in seconds.items()}
    print(f"{options.flux.name}, {options.llm.name}, {options.size} pixels, {options.device}, {physical_cores()} cores")
    for name, values in seconds.items():
        print(f"{name:28} {'  '.join(f'{value:7.2f}' for value in values)} s")
    to_language = best["diffusion model given back"] + best["language model to ready"]
    to_diffusion = best["language model given back"] + max(0.0, best["a step after it"] - best["a step"])
    print(f"to the language model {to_language:.2f} s, back {to_diffusion:.2f} s, the best of {options.rounds}")


def _never() -> bool:
    return False


def _ask(model: Any, tokens: int) -> None:
    def use(endpoint: Any) -> None:
        body = requests.conversation_request("", "Describe a cat.", (), 1, 0.7, tokens, endpoint) | {"ignore_eos": True}
        chat.complete(endpoint, body, lambda _: None, _never)

    serving.with_server(model, use, _never)


def _read(*files: Path) -> None:
    for path in files:
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


if __name__ == "__main__":
    main()
