"""Damaged headers of ten families, VAEs, a checkpoint, a LoRA: each is an error that names the file, or loads as that.

Errors of a LoRA that can be read name its layer, on the node that loads it.

A run takes 300 of them, others each day; DAMAGED_HEADERS=10000 takes so many.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from tests import checkpoints, pack, random_models
from tests.faults import damage
from tests.faults.loaders import is_paragraph

autoencoder_build = pack.part("nodes.components.autoencoder_build")
build = pack.part("nodes.components.build")
checkpoint_build = pack.part("nodes.components.checkpoint_build")
encoder_build = pack.part("nodes.components.encoder_build")
encoders = pack.part("nodes.loaders.text_encoders")
loader = pack.part("nodes.loaders.diffusion")
lora = pack.part("nodes.components.lora")
lora_files = pack.part("nodes.planner.lora_files")
recording = pack.part("nodes.components.recording")
placement = pack.part("native.placement")
weights = pack.part("native.weights")

import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402

from ..bench import hollow_vaes, real_size_files  # noqa: E402
from ..bench.hollow import MODELS as HOLLOW  # noqa: E402
from ..e2e.any_diffusion import SMALL  # noqa: E402

FILES = int(os.environ.get("DAMAGED_HEADERS", 300))
GOOD = ("refused", "same", "a variant")
SECONDS = 20  # that none may take
GROWTH = 1 << 30  # bytes of this process at most, whatever the files announce
DIFFUSION = ("Flux", "SD3", "WAN21_T2V", "HunyuanVideo", "LTXV", "CogVideoX_T2V", "Kandinsky5", "Lens")
ENCODERS = ("t5", "clip")
VAES = ("picture VAE", "video VAE")
CHECKPOINT, LORA = "checkpoint", "LoRA"
# Of these core takes what a file has, or builds the model without, as some files are.
OPTIONAL = {"pos_embed", "y_embedder.mlp.0.weight", "y_embedder.mlp.0.bias", "y_embedder.mlp.2.weight",
            "y_embedder.mlp.2.bias", "text_projection.weight", "vae_shift", "vae_scale"}  # fmt: skip
FAMILIES = (*DIFFUSION, *ENCODERS, *VAES, CHECKPOINT, LORA)
BY_KIND = {small.kind: small for small in SMALL}


@cache
def headers(family: str) -> damage.Header:
    """The whole header of a family's file; FLUX with scaled FP8."""
    shapes = {name: tuple(x.shape) for name, x in tensors_of(family).items()}
    types = {name: ("F32" if len(shape) < 2 else "F16", shape) for name, shape in shapes.items()}
    if family == "Flux":
        for name, shape in shapes.items():
            if len(shape) == 2 and "blocks" in name:
                types[name] = "F8_E4M3", shape
                types[name.removesuffix("weight") + "scale_weight"] = "F32", (1,)
        types["scaled_fp8"] = "F8_E4M3", (0,)
    return damage.header_of(types, {"format": "pt"})


def tensors_of(family: str) -> Mapping[str, Any]:
    """The tensors of a family's file, with or without values."""
    if family in ENCODERS:
        return HOLLOW[family].build(None).state_dict()
    if family == "video VAE":
        with torch.device("meta"):
            return hollow_vaes.VAES["wan2.1"]().state_dict()
    if family == LORA:
        layers = [name.removesuffix(".weight") for name, x in random_models.flux().items() if x.ndim == 2]
        ends = {"lora_A.weight": (4, 256), "lora_B.weight": (256, 4)}
        fit = [layer for layer in layers if layer.endswith("_attn.proj")]
        return {f"diffusion_model.{layer}.{end}": torch.empty(shape, device="meta")
                for layer in fit for end, shape in ends.items()}  # fmt: skip
    makers = {"picture VAE": random_models.vae, CHECKPOINT: checkpoints.flux}
    return makers[family]() if family in makers else BY_KIND[family].tensors()


@cache
def flux(folder: Path) -> Any:
    """The model that a LoRA is for."""
    path = random_models.write_gguf(folder / "for a LoRA.gguf", "flux", random_models.flux())
    return loader.load_diffusion(weights.read_header(path), "CPU")


def with_lora(path: Path) -> Any:
    """The patches of a LoRA, as core's own loader makes them."""
    with patch.object(folder_paths, "get_full_path", lambda _folder, name: name):
        unreadable = lora_files.unreadable_lora({"lora_name": str(path)})
    if unreadable:
        raise weights.WeightFileError(unreadable[1])
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(flux(path.parent), None, tensors, 1.0, 0.0)
    return LORA, [
        {key: tuple(tuple(x.shape) for x in found[0][1].weights[:2]) for key, found in patched.patches.items()}
    ]


def loaded(family: str, path: Path) -> Any:
    """The class that a file is loaded as, and the shape of each parameter."""
    if family == LORA:
        return with_lora(path)
    header = weights.read_header(path)
    if family in VAES:
        made, found = autoencoder_build.autoencoder(recording.Recording(header))
        held, name = [found], type(made.first_stage_model).__name__
    elif family == CHECKPOINT:
        read = checkpoint_build.checkpoint(header)
        if read.clip is None or not read.autoencoder:  # which the loader says on the node, and whoever uses one
            return "a part of it", [{}]
        made, found = autoencoder_build.autoencoder(read.recording, read.autoencoder)
        held = [read.weights, *(each.weights for each in read.encoders), found]
        name = f"{type(read.model.model_config).__name__}, {type(made.first_stage_model).__name__}"
    elif family in ENCODERS:
        kind = comfy.sd.CLIPType.STABLE_DIFFUSION if family == "clip" else comfy.sd.CLIPType.SD3
        clip, parts = encoder_build.text_encoders([header], kind)
        held = [part.weights for part in parts]
        name = type(clip.cond_stage_model).__name__
    else:
        model, found = build.diffusion_model(header)
        held, name = [found], type(model.model_config).__name__
    return name, [{key: parameter.shape for key, parameter in each.parameters.items()} for each in held]


@contextmanager
def limited() -> Iterator[None]:
    """Raises TimeoutError within it after SECONDS."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(load: Callable[[], Any], path: Path, expected: Any) -> str:
    """The end of a damaged file in a word; a problem in more words."""
    try:
        with limited():
            found = load()
    except lora.LoRAError as error:
        return "refused" if "diffusion_model." in str(error) and is_paragraph(str(error)) else f"says {error!r:.300}"
    except weights.WeightFileError as error:
        message = str(error)
        return "refused" if str(path) in message and is_paragraph(message) else f"says {message!r:.300}"
    except BaseException as error:
        return f"raises {type(error).__name__}: {error!s:.200}"
    if found == expected:
        return "same"
    (kind, held), (expected_kind, whole_parts) = found, expected
    if kind == LORA:  # any of the layers may be in one
        other = held[0].items() - whole_parts[0].items()
        return f"has {dict(other)}" if other else "a variant"
    if kind == "a part of it":
        return "a variant"
    pairs = list(zip(held, whole_parts, strict=True))
    other = {name for part, entire in pairs for name in part | entire if part.get(name) != entire.get(name)}
    return "a variant" if kind == expected_kind and other <= OPTIONAL else f"is another: {kind}"


@cache
def gguf(family: str, folder: Path) -> tuple[bytes, int]:
    """The header of a family's GGUF file, and the bytes behind it."""
    tensors = [
        (name, tuple(entry["shape"]), Kind.F32 if len(entry["shape"]) < 2 else Kind.F16)
        for name, entry in headers(family).entries.items() if name != "__metadata__" and 0 not in entry["shape"]
    ]  # fmt: skip
    path = folder / f"{family}.gguf"
    real_size_files.write(path, real_size_files.ModelFile("a model", tensors), hollow=True)
    size = path.stat().st_size
    start = min(tensor.offset for tensor in weights.read_header(path).tensors.values())
    with path.open("rb") as file:
        return file.read(start), size - start


def damaged(family: str, number: int, folder: Path) -> tuple[Path, str]:
    """A damaged file, every third in GGUF, and in which way."""
    chance = Random(number)
    if number % 3 or family in (
        LORA,
        CHECKPOINT,
    ):  # core reads no LoRA in GGUF, and GGUF has no numbers without a dimension
        path = folder / f"{number}.safetensors"
        return path, damage.damage(path, headers(family), chance)
    path = folder / f"{number}.gguf"
    return path, damage.damage_gguf(path, *gguf(family, folder), chance)


@cache
def whole(family: str, folder: Path) -> Any:
    """The class and the shapes of the undamaged file."""
    path = folder / f"{family}.safetensors"
    damage.write(path, damage.whole(headers(family)), headers(family).size)
    return loaded(family, path)


def test_damaged_headers(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first = request.config.getoption("--sample") * FILES
    ends: Counter[tuple[str, str]] = Counter()
    problems = []
    before = _peak()
    for number in range(first, first + FILES):
        family = FAMILIES[number % len(FAMILIES)]
        path, way = damaged(family, number, tmp_path)
        end = outcome(partial(loaded, family, path), path, whole(family, tmp_path))
        ends[way, end if end in GOOD else "a problem"] += 1
        if end not in GOOD:
            problems.append((number, family, way, end))
        path.unlink()
    for (way, end), count in sorted(ends.items()):
        print(f"{count:6} {end}: {way}")
    for problem in problems:
        print(*problem)
    assert not problems
    assert ends.total() == FILES
    assert any(end == "same" for _, end in ends)
    assert _peak() - before < GROWTH


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
