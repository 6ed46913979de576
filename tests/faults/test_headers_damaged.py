"""Damaged headers of ten families: each is a WeightFileError that names the file, or loads as the same model.

A run takes 300 of them, others each day; DAMAGED_HEADERS=10000 takes so many.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Kind

from tests import pack
from tests.faults import damage
from tests.faults.loaders import is_paragraph

build = pack.part("nodes.components.build")
encoder_build = pack.part("nodes.components.encoder_build")
encoders = pack.part("nodes.loaders.text_encoders")
loader = pack.part("nodes.loaders.diffusion")
placement = pack.part("native.placement")
weights = pack.part("native.weights")

import comfy.sd  # noqa: E402

from ..bench import real_size_files  # noqa: E402
from ..bench.hollow import MODELS as HOLLOW  # noqa: E402
from ..e2e.any_diffusion import SMALL  # noqa: E402

FILES = int(os.environ.get("DAMAGED_HEADERS", 300))
GOOD = ("refused", "same", "a variant")
SECONDS = 20  # that none may take
GROWTH = 1 << 30  # bytes of this process at most, whatever the files announce
DIFFUSION = ("Flux", "SD3", "WAN21_T2V", "HunyuanVideo", "LTXV", "CogVideoX_T2V", "Kandinsky5", "Lens")
ENCODERS = ("t5", "clip")
# Of these core takes what a file has, or builds the model without, as some files are.
OPTIONAL = {"pos_embed", "y_embedder.mlp.0.weight", "y_embedder.mlp.0.bias", "y_embedder.mlp.2.weight",
            "y_embedder.mlp.2.bias", "text_projection.weight"}  # fmt: skip
FAMILIES = (*DIFFUSION, *ENCODERS)
BY_KIND = {small.kind: small for small in SMALL}


@cache
def headers(family: str) -> damage.Header:
    """The whole header of a family's file; FLUX with scaled FP8."""
    if family in ENCODERS:
        shapes = {name: tuple(x.shape) for name, x in HOLLOW[family].build(None).state_dict().items()}
    else:
        shapes = {name: tuple(x.shape) for name, x in BY_KIND[family].tensors().items()}
    types = {name: ("F32" if len(shape) < 2 else "F16", shape) for name, shape in shapes.items()}
    if family == "Flux":
        for name, shape in shapes.items():
            if len(shape) == 2 and "blocks" in name:
                types[name] = "F8_E4M3", shape
                types[name.removesuffix("weight") + "scale_weight"] = "F32", (1,)
        types["scaled_fp8"] = "F8_E4M3", (0,)
    return damage.header_of(types, {"format": "pt"})


def loaded(family: str, path: Path) -> Any:
    """The class that a file is loaded as, and the shape of each parameter."""
    header = weights.read_header(path)
    if family in ENCODERS:
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
    except weights.WeightFileError as error:
        message = str(error)
        return "refused" if str(path) in message and is_paragraph(message) else f"says {message!r:.300}"
    except BaseException as error:
        return f"raises {type(error).__name__}: {error!s:.200}"
    if found == expected:
        return "same"
    (kind, held), (expected_kind, whole_parts) = found, expected
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
    if number % 3:
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
