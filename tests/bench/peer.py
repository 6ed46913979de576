"""Measures stable-diffusion.cpp through `stable-diffusion-cpp-python`, in whose environment it runs.

    PYTHONPATH=. PEER/bin/python -m tests.bench.peer load|steps|encode|decode|draw [options of tests.bench.task]

Flash attention is on for the diffusion model, all else as that package has it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn

from native.runner.cpu_cores import physical_cores

from .task import PROMPT, Report, perform, write

COMPUTE_BUFFER = re.compile(r"flux compute buffer size: *([0-9.]+) MB")
RESIDENCIES = re.compile(r"diffusion_model ([0-9.]+)MB")
ENCODERS = re.compile(r"text_encoders ([0-9.]+)MB")
ENCODED = re.compile(r"get_learned_condition completed, taking ([0-9.]+)s")
DECODED = re.compile(r"decode_first_stage completed, taking ([0-9.]+)s")
MIB = 1 << 20


def main() -> None:
    """Measures one task."""
    tasks = {"load": load, "steps": steps, "encode": encode, "decode": decode, "draw": draw}
    perform(tasks, __doc__)


def load(options: argparse.Namespace) -> Report:
    """The time of its constructor, in which it reads all weights."""
    log = _listen()
    start = time.perf_counter()
    _model(options)
    seconds = time.perf_counter() - start
    return Report(seconds, physical_cores(), weights=mebibytes(RESIDENCIES, "".join(log)))


def steps(options: argparse.Namespace) -> Report:
    """Euler steps; the last one counts. The process ends with it: the picture is not decoded.

    Without any text encoder it crashes, so it must have CLIP-L.
    """

    def report(seconds: list[float], log: str) -> Report:
        text = f"steps of {', '.join(f'{each:.2f}' for each in seconds)} s"
        sizes = [mebibytes(pattern, log) for pattern in (COMPUTE_BUFFER, RESIDENCIES, ENCODERS)]
        return Report(seconds[-1], physical_cores(), text, *sizes)

    _until_the_last_step(options, options.steps, report)


def draw(options: argparse.Namespace) -> Report:
    """A prompt and two steps, of which the second counts; the process ends with it."""

    def report(seconds: list[float], log: str) -> Report:
        return Report(seconds[-1], physical_cores(), encode=float(ENCODED.findall(log)[-1]))

    _until_the_last_step(options, 2, report)


def _until_the_last_step(
    options: argparse.Namespace, count: int, report: Callable[[list[float], str], Report]
) -> NoReturn:
    """Ends the process after `count` steps; report(seconds of each, log) is what it writes."""
    log = _listen()
    model = _model(options)
    times: list[float] = []

    def after_step(step: int, of: int, _: float) -> None:
        times.append(time.perf_counter())
        if step == of:
            write(options.report, report([after - before for before, after in pairwise(times)], "".join(log)))
            os._exit(0)

    _generate(model, options, PROMPT, count, after_step)
    raise RuntimeError("stable-diffusion.cpp did not do the steps it was asked for")


def encode(options: argparse.Namespace) -> Report:
    """T5 of 256 tokens and CLIP-L of 77; the second of two prompts, each with a step of a model that may be small."""
    log = _listen()
    model = _model(options)
    for prompt in ("a first prompt", PROMPT):
        _generate(model, options, prompt, 1)
    first, second = ENCODED.findall("".join(log))
    return Report(float(second), physical_cores(), f"the first: {first} s")


def decode(options: argparse.Namespace) -> Report:
    """A picture or a video out of latents, after one step; it makes its graph anew for each."""
    log = _listen()
    _generate(_model(options), options, PROMPT, 1)
    (seconds,) = DECODED.findall("".join(log))
    return Report(float(seconds), physical_cores())


def mebibytes(pattern: re.Pattern[str], log: str) -> int:
    """Bytes from the last line that fits; raises ValueError when stable-diffusion.cpp said nothing of the kind."""
    found = pattern.findall(log)
    if not found:
        raise ValueError(f"stable-diffusion.cpp's log has no line like {pattern.pattern!r}")
    return round(float(found[-1]) * MIB)


def _listen() -> list[str]:
    """A list that grows by what stable-diffusion.cpp logs."""
    import stable_diffusion_cpp as sd

    log: list[str] = []

    @sd.sd_log_callback
    def heard(_level: int, text: bytes, _data: Any) -> None:
        log.append(text.decode("utf-8", "replace"))
        print(log[-1], end="", file=sys.stderr, flush=True)

    sd.sd_set_log_callback(heard, None)
    _kept.append(heard)  # C calls it as long as the process lives
    return log


_kept: list[Any] = []


def _model(options: argparse.Namespace) -> Any:
    import stable_diffusion_cpp as sd

    paths = {
        "model_path": options.checkpoint, "diffusion_model_path": options.diffusion, "vae_path": options.vae,
        "t5xxl_path": options.t5, "clip_l_path": options.clip, "llm_path": options.llm,
    }  # fmt: skip
    given = {name: str(path) for name, path in paths.items() if path}
    return sd.StableDiffusion(
        **given, vae_decode_only=True, n_threads=physical_cores(), diffusion_flash_attn=True, verbose=True
    )


def _generate(model: Any, options: argparse.Namespace, prompt: str, count: int, progress: Any = None) -> None:
    make = model.generate_image if not options.frames else partial(model.generate_video, video_frames=options.frames)
    make(
        prompt, width=options.size, height=options.height or options.size, cfg_scale=1.0, sample_method="euler",
        sample_steps=count, seed=1, vae_tiling=options.tiled, progress_callback=progress,
    )  # fmt: skip


if __name__ == "__main__":
    main()
