"""Measures this project as ComfyUI's nodes run it.

COMFYUI_PATH=... python -m tests.bench.ours load|steps|encode|decode|draw [options of tests.bench.task]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Hashable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from native.runner.cpu_cores import physical_cores
from tests import pack

from . import pictures
from .task import PROMPT, Report, perform

pack.comfy()

import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import folder_paths  # noqa: E402

LATENTS = 16  # channels
TRACED = 512  # pixels; the size whose tracing is measured beside loading
MIB = 1 << 20


def main() -> None:
    """Measures one task."""
    pack.part("native.client").shared().devices()  # starts the runner, as ComfyUI does before a workflow runs
    tasks = {"load": load, "steps": steps, "encode": encode, "decode": decode, "draw": draw}
    perform(tasks, __doc__)


def _node(module: str, node: str, folder: str, file: Path, inputs: dict[str, Any]) -> Any:
    """The outputs of a loader's node for a file, the only one of its folder."""
    folder_paths.add_model_folder_path(folder, str(file.parent), is_default=True)
    pack.part("nodes.loaders.files").register_folders()
    return getattr(pack.part(module), node).execute(**inputs).result


def _placement(options: argparse.Namespace) -> dict[str, str]:
    """The inputs that all loaders have."""
    return {"device": options.device, "weights": options.weights, "engine": options.engine}


def diffusion(options: argparse.Namespace) -> Any:
    """The MODEL of the node, with the inputs that a user could choose."""
    inputs = {"model_name": options.diffusion.name, **_placement(options)}
    return _node("nodes.loaders.diffusion", "GGMLDiffusionModel", "diffusion_models", options.diffusion, inputs)[0]


def text_encoders(options: argparse.Namespace) -> Any:
    """The CLIP of the node."""
    files = [file for file in (options.t5, options.clip, options.llm) if file]
    names = {f"clip_name{number}": file.name for number, file in enumerate(files, 1)}
    inputs = {**names, "type": options.clip_type, **_placement(options)}
    return _node("nodes.loaders.text_encoders", "GGMLTextEncoders", "text_encoders", files[0], inputs)[0]


def autoencoder(options: argparse.Namespace) -> Any:
    """The VAE of the node."""
    inputs = {"vae_name": options.vae.name, "tiling": "auto", "tile_size": 0, "overlap": 64, **_placement(options)}
    return _node("nodes.loaders.vae", "GGMLVAE", "vae", options.vae, inputs)[0]


def checkpoint(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the node."""
    inputs = {"ckpt_name": options.checkpoint.name, **_placement(options)}
    inputs |= {"clip_device": options.device, "vae_device": options.device}
    inputs |= {"clip_weights": options.weights, "vae_weights": options.weights}
    file = options.checkpoint
    model, clip, vae, _ = _node("nodes.loaders.checkpoint", "GGMLCheckpoint", "checkpoints", file, inputs)
    return model, clip, vae


def draw(options: argparse.Namespace) -> Report:
    """A prompt and two steps; the second of each counts."""
    if options.checkpoint:
        model, clip, _ = checkpoint(options)
    else:
        model, clip = diffusion(options), text_encoders(options)
    encode, step = pictures.draw(model, clip, options)
    engines = f"engines {_engine(clip.patcher)}, {_engine(model)}"
    return Report(step, physical_cores(), engines, encode=encode)


def load(options: argparse.Namespace) -> Report:
    """From the start of the loaders' nodes until all weights are where they live; the first step also traces."""
    start = time.perf_counter()
    model, _vae, notes = _loaded(options)
    seconds = time.perf_counter() - start
    _trace(model, TRACED)
    traced = time.perf_counter() - start - seconds
    return Report(seconds, physical_cores(), f"{notes}; tracing and lowering for {TRACED} pixels: {traced:.2f} s")


def steps(options: argparse.Namespace) -> Report:
    """Euler steps through core's sampler; the last one counts, tracing is done before."""
    model, _vae, notes = _loaded(options)  # both stay, as they do in the peer
    _trace(model, options.size)
    if options.steps == 1:
        _sample(model, TRACED // 2, 1)
    seconds = _sample(model, options.size, options.steps)
    text = f"{notes}; steps of {', '.join(f'{each:.2f}' for each in seconds)} s"
    if (held := _held(model)) is None:
        return Report(seconds[-1], physical_cores(), text)
    weights = held.mapped + held.copied + held.repacked
    return Report(seconds[-1], physical_cores(), text, held.compute, weights)


def encode(options: argparse.Namespace) -> Report:
    """T5 of 256 tokens and CLIP-L of 77; the second prompt counts, tracing is in the first."""
    clip = text_encoders(options)
    seconds = []
    for prompt in ("a first prompt", PROMPT):
        start = time.perf_counter()
        ((context, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        seconds.append(time.perf_counter() - start)
        assert context.shape[1] == 256
        assert context.isfinite().all()
    notes = f"engine {_engine(clip.patcher)}; the first prompt, with loading and tracing: {seconds[0]:.1f} s"
    return Report(seconds[1], physical_cores(), notes)


def decode(options: argparse.Namespace) -> Report:
    """A picture or a video out of random latents; the second counts, tracing is in the first."""
    vae = checkpoint(options)[2] if options.checkpoint else autoencoder(options)
    first, second = pictures.decode(vae, options)
    return Report(second, physical_cores(), f"engine {_engine(vae.patcher)}; the first, with tracing: {first:.1f} s")


def _latent(size: int, seed: int) -> torch.Tensor:
    return torch.randn(1, LATENTS, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))


def _loaded(options: argparse.Namespace) -> tuple[Any, Any, str]:
    """The MODEL and the VAE with their weights where they live, and the bytes of these."""
    vae = autoencoder(options)
    model = diffusion(options)
    comfy.model_management.load_models_gpu([vae.patcher, model])
    if (held := _held(model)) is None:
        return model, vae, "engine torch"
    own = held.copied + held.repacked
    return model, vae, f"{held.mapped / MIB:.0f} MiB mapped, {own / MIB:.0f} MiB copied or repacked"


def _engine(patcher: Any) -> str:
    """The engine of a component; of two text encoders, the larger one's."""
    modules = [module for _, module in pack.part("nodes.components.component").components_of(patcher.model)]
    engine: str = max(modules, key=lambda module: module.nbytes).engine_model.placement.engine
    return engine


def _held(model: Any) -> Any:
    """The runner's memory report of a model; None where torch computes it."""
    if _engine(model) == "torch":
        return None
    engine_model = model.model.diffusion_model.engine_model
    models = engine_model.runner.memory().models
    return next(each for each in models if each.digest == engine_model.weights.digest)


def _trace(model: Any, size: int) -> None:
    """Has the program made for pictures of `size` pixels, without running it."""
    if _engine(model) == "torch":
        return
    module = model.model.diffusion_model
    latent = _latent(size, 0)

    def lower_only(key: Hashable, function: Callable, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor]:
        module.engine_model.lowered(key, function, tensors)
        return (latent,)

    module.compute = lower_only
    try:
        _sample(model, size, 1)
    finally:
        del module.compute


def _sample(model: Any, size: int, count: int) -> list[float]:
    """Seconds of each of `count` euler steps with 256 text tokens."""
    generator = torch.Generator().manual_seed(1)
    context, pooled = torch.randn(1, 256, 4096, generator=generator), torch.randn(1, 768, generator=generator)
    conditioning = [[context, {"pooled_output": pooled}]]
    times = [time.perf_counter()]
    latent = _latent(size, 0)
    result = comfy.sample.sample(
        model, latent, count, 1.0, "euler", "simple", conditioning, conditioning, torch.zeros_like(latent),
        disable_pbar=True, seed=1, callback=lambda *_: times.append(time.perf_counter()),
    )  # fmt: skip
    assert result.isfinite().all()
    return [after - before for before, after in pairwise(times)]


if __name__ == "__main__":
    main()
