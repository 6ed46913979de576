"""Small stand-ins of the model files that templates name, of the same structure table as those of real size.

Inside a model widths and layers are few. What goes from one model to another stays as wide as in the real ones: text,
pooled text, pictures' features, latents. Core builds them as tests/narrow.py makes it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests import pack

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.clip_vision  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402

from tests import narrow  # noqa: E402

from .. import checkpoints  # noqa: E402
from ..e2e.small_diffusion import Small, Tensors, of_case  # noqa: E402
from ..parity.model_cases import randomize  # noqa: E402
from . import autoencoders, others, small_patches  # noqa: E402
from .diffusion import DIFFUSION, Diffusion  # noqa: E402
from .encoders import ENCODERS, Encoder  # noqa: E402
from .files import _TOKENIZER, _VAE, ModelRow, NoStructure, Part, row_of, write_absent  # noqa: E402

Shape = tuple[int, ...]
_RANK = 4
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|(?<=\.)\d+$")
_PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
_EXACT = ("SDPose", "RT-DETR", "SAM3.1")  # whose maxima, among random values, F16 would move
_OF_HEAD = 64  # channels of a head of T5's


def write_small(models: Path, files: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """As write_absent, small. Files of the same structure are one, linked."""
    return write_absent(models, files, lambda folder, name, path: os.link(_made(models, row_of(folder, name)), path))


def _made(models: Path, row: ModelRow) -> Path:
    """A file of that structure."""
    title = "; ".join(f"{part.name} {part.prefix} {part.rank or ''}".strip() for part in row.parts)
    path = models.parent / "made" / f"{re.sub(r'[^A-Za-z0-9.;]+', '_', title)}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors, metadata = small(row)
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata)
        os.replace(partial, path)
    return path


def small(row: ModelRow) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a file. Raises NoStructure."""
    held: Tensors = {}
    note: dict[str, Any] = {}
    config: dict[str, Any] = {}
    exact = any(part.name in _EXACT for part in row.parts)
    for part in row.parts:
        tensors = _tensors(part, note, config)
        for name, x in tensors.items():
            own = name in ("spiece_model", "tekken_model", "tokenizer_json")
            prefix = _TOKENIZER if own and part.prefix.startswith(_TOKENIZER) else part.prefix
            stored = x.half() if x.is_floating_point() and not exact else x
            held[prefix + name] = stored.clone().contiguous()
    metadata = {narrow.NOTE: repr(note)} if note else {}
    return held, metadata | ({"config": json.dumps(config)} if config else {})


def _tensors(part: Part, note: dict[str, Any], config: dict[str, Any]) -> Tensors:
    name = part.name
    if part.rank:
        made = _diffusion(name)[0] if name in DIFFUSION else _encoder(ENCODERS[name])
        return _lora({key: tuple(x.shape) for key, x in made.items()})
    if name in DIFFUSION:
        tensors, sized = _diffusion(name)
        if sized.sizes or sized.other:
            note |= {"kind": sized.kind, "sizes": dict(sized.sizes)}
        config |= json.loads(sized.metadata.get("config", "{}"))
        return _with_peaks(tensors) if name == "SDPose" else tensors
    if name in ENCODERS:
        contents = {
            key: torch.frombuffer(bytearray(value), dtype=torch.uint8)
            for key, value in ENCODERS[name].contents().items()
        }
        return _encoder(ENCODERS[name]) | contents
    if name.startswith(_VAE):
        kind = autoencoders.BY_NAME[name.removeprefix(_VAE)]
        note.setdefault("narrow", {}).update(kind.narrow)
        config |= json.loads(kind.metadata.get("config", "{}"))
        return kind.tensors()
    if name in small_patches.SMALL:
        return small_patches.SMALL[name]()
    if name not in others.OTHERS:
        raise NoStructure(f"the structure of {name} is not known here")
    made = _OTHERS.get(name)
    if made is None:
        config |= others.CONFIG.get(name, {})
        return filled(others.OTHERS[name]())
    tensors, more = made()
    config |= more
    return tensors


def _with_peaks(tensors: Tensors) -> Tensors:
    """The model with a head whose maps have broad peaks above 0, as trained ones have.

    A node finds the peaks by derivatives of the maps' logarithms: among random values they hang on the last digit.
    The kernel: bilinear, as Long et al. 2015, "Fully convolutional networks", have it at first.
    """
    kernel, bias = "heatmap_head.deconv_layers.0.weight", "heatmap_head.final_layer.bias"
    slope = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    return tensors | {kernel: 2 * tensors[kernel][..., :1, :1] * slope[:, None] * slope, bias: tensors[bias] + 5}


def filled(shapes: Mapping[str, Shape]) -> Tensors:
    """Random tensors of these shapes, scaled as those of a module."""
    module = torch.nn.Module()
    for name, shape in shapes.items():
        module.register_parameter(name.replace(".", "/"), torch.nn.Parameter(torch.empty(shape)))
    return {name.replace("/", "."): x for name, x in randomize(module).state_dict().items()}


def _encoder(encoder: Encoder) -> Tensors:
    config = encoder.config()
    kind: Any = encoder.core
    with narrow.towers():
        module = encoder.core({**config, **narrow.encoder_sizes(kind, config)}, **_PLAIN | {"dtype": torch.float16})
    if any(each.is_meta for each in module.parameters()):  # experts, which core makes when it loads a file
        module = module.to_empty(device="cpu")
    made = {encoder._in_file(name): x for name, x in randomize(module).state_dict().items()}
    for name, x in made.items():
        if name.endswith("SelfAttention.q.weight"):  # T5 has the scale of its attention in there
            x *= _OF_HEAD**-0.5
    real = {name: torch.empty(shape, device="meta") for name, shape in encoder.shapes().items()}
    if made.get("shared.weight", torch.empty(0)).shape == (32128, 4096):  # which tests/narrow.py has detected
        return made
    if comfy.sd.detect_te_model(made) != comfy.sd.detect_te_model(real):
        return _marks(encoder) | made
    return made


def _marks(encoder: Encoder) -> Tensors:
    """Of the last two layers of the real one: by their names, and some by their rows, core's detection goes."""
    real = {name: shape for name, shape in encoder.shapes().items() if _NUMBER.search(name) and shape}
    last = max((int(_NUMBER.search(name)[0]) for name in real), default=0)  # type: ignore[index]
    return {
        name: torch.zeros(shape[0], *(1 for _ in shape[1:]))
        for name, shape in real.items()
        if int(_NUMBER.search(name)[0]) >= last - 1 and name.endswith("weight")  # type: ignore[index]
    }


@cache
def _diffusion(name: str) -> tuple[Tensors, Small]:
    sized = _sized(DIFFUSION[name])
    with sized.detection():
        return sized.tensors(), sized


def _sized(row: Diffusion) -> Small:
    """The small model of the kind, with the real widths of what it is given and gives."""
    base = row.small()
    start: Callable[[], Mapping[str, Shape]] = row.start or (of_case(row.case) if row.case else base.start)
    given = {key: shape for key, shape in start().items() if not key.startswith(row.without or ("\0",))}
    given |= {key: shape for key, shape in row.markers.items() if not shape}
    real = row.shapes()
    real_config = _detected(real, row)
    given |= {key: real[key] for key in row.wide}
    sizes = (
        {}
        if row.wide
        else {
            key: _with_text(value, real_config.get(key), (base.text, base.pooled))
            for key, value in base.sizes.items()
            if key in real_config or value not in (base.text, base.pooled)  # else the class knows the real one
        }
    )
    start = (lambda: dict(given)) if row.wide else (lambda: _interfaces(given, real, base))
    return replace(base, start=start, sizes=sizes | dict(row.sizes), config=row.config or base.config)


def _detected(shapes: Mapping[str, Shape], row: Diffusion) -> dict[str, Any]:
    """The configuration that core's detection reads out of the shapes."""
    tensors = {key: torch.empty(shape, device="cpu" if len(shape) < 2 else "meta") for key, shape in shapes.items()}
    config = comfy.model_detection.model_config_from_unet(tensors, "", metadata=row.metadata)
    return dict(config.unet_config) if config is not None else {}


def _with_text(value: Any, real: Any, widths: tuple[int, int]) -> Any:
    """The real size where the small one is that of the text."""
    if real is None:
        return value
    if isinstance(value, list | tuple):
        return type(value)(_with_text(each, wide, widths) for each, wide in zip(value, real, strict=False))
    return real if value in widths and not isinstance(value, bool) else value


def _interfaces(given: Mapping[str, Shape], real: Mapping[str, Shape], base: Small) -> dict[str, Shape]:
    """The shapes with the real dimensions where they are no widths of the model's blocks."""
    inner = {dim for name, shape in real.items() if _NUMBER.search(name) for dim in shape}
    by_form: dict[str, Shape] = {}
    for name, shape in real.items():
        by_form.setdefault(_NUMBER.sub("N", name), shape)
    found = {}
    for name, shape in given.items():
        wide = real.get(name) or by_form.get(_NUMBER.sub("N", name))
        if wide is None or len(wide) != len(shape):
            found[name] = shape
            continue
        block = bool(_NUMBER.search(name))
        found[name] = tuple(
            theirs if (theirs not in inner and not block) or (ours in (base.text, base.pooled) and n == len(shape) - 1)
            else ours
            for n, (ours, theirs) in enumerate(zip(shape, wide, strict=True))
        )  # fmt: skip
    return found


def _vision(name: str) -> Callable[[], tuple[Tensors, dict[str, Any]]]:
    """A vision encoder with few layers, and the vectors of the others, as core's detection goes by their names."""

    def made() -> tuple[Tensors, dict[str, Any]]:
        config = json.loads((others._COMFY / others.VISION[name]).read_text(encoding="utf-8"))
        kind = comfy.clip_vision.IMAGE_ENCODERS[config["model_type"]]
        module = kind({**config, **narrow.vision_sizes(config)}, torch.float32, "cpu", comfy.ops.disable_weight_init)
        marks = {key: torch.zeros(shape) for key, shape in others.OTHERS[name]().items() if len(shape) == 1}
        return marks | dict(randomize(module).state_dict()), {}

    return made


def _open_clip_vision() -> tuple[Tensors, dict[str, Any]]:
    marks = {key: torch.zeros(shape) for key, shape in others.open_clip_vision_h().items() if len(shape) == 1}
    return marks | filled(others.open_clip_vision_h(layers=3, inner=64)), {}


def _latent_upsampler() -> tuple[Tensors, dict[str, Any]]:
    config = others._UPSAMPLER | {"mid_channels": 32, "num_blocks_per_stage": 1}
    module = others.LatentUpsampler(**config, operations=comfy.ops.disable_weight_init)
    return dict(randomize(module).state_dict()), config


def _rt_detr() -> tuple[Tensors, dict[str, Any]]:
    with narrow.beside_narrowed():
        return dict(randomize(others.RTv4(enc_h=128, **_PLAIN)).state_dict()), {}


def _sam3() -> tuple[Tensors, dict[str, Any]]:
    with narrow.beside_narrowed():
        return dict(randomize(others.SAM3Model(image_model="SAM31", **_PLAIN)).state_dict()), {}


def _dino_v3() -> tuple[Tensors, dict[str, Any]]:
    config = {**others.dino3.DINOV3_VITH_CONFIG, **narrow.vision_sizes(others.dino3.DINOV3_VITH_CONFIG)}
    module = others.dino3.DINOv3ViTModel(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    marks = {key: torch.zeros(shape) for key, shape in others.OTHERS["DINOv3 H"]().items() if len(shape) == 1}
    return marks | dict(randomize(module).state_dict()), {}


def _clip_of_sam3() -> tuple[Tensors, dict[str, Any]]:
    config = {**others.SAM3_CLIP_CONFIG, **narrow.encoder_sizes(comfy.clip_model.CLIPTextModel, {})}
    made = randomize(comfy.clip_model.CLIPTextModel(config, **_PLAIN)).state_dict()
    return dict(checkpoints.open_clip(made, config["num_hidden_layers"])), {}


def _upscaler() -> tuple[Tensors, dict[str, Any]]:
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    return dict(randomize(RRDBNet(num_filters=16, num_blocks=1, scale=4)).state_dict()), {}


# Models beside that have few layers or channels.
_OTHERS: Mapping[str, Callable[[], tuple[Tensors, dict[str, Any]]]] = {
    "CLIP-L without projection": lambda: (checkpoints.without_projection(_encoder(ENCODERS["CLIP-L"])), {}),
    "CLIP-G of OpenCLIP": lambda: (checkpoints.open_clip(_encoder(ENCODERS["CLIP-G"]), 3), {}),
    **{name: _vision(name) for name in others.VISION},
    "CLIP vision H of OpenCLIP": _open_clip_vision,
    "LTX-2.3 text projection": lambda: (filled(others.ltx_text_projection(128, 64)), {}),
    "RealESRGAN x4": _upscaler,
    "DINOv3 H": _dino_v3,
    "RT-DETR": _rt_detr,
    "SAM3.1": _sam3,
    "CLIP of SAM3": _clip_of_sam3,
    "LTX-2 latent upscaler": _latent_upsampler,
}


def _lora(shapes: Mapping[str, Shape]) -> Tensors:
    """A low-rank pair for each matrix of the blocks, in ComfyUI's plain names."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if len(shape) == 2 and name.endswith(".weight") and _NUMBER.search(name) and min(shape) >= 64:
            layer = "diffusion_model." + name.removesuffix(".weight")
            found[f"{layer}.lora_A.weight"] = (_RANK, shape[1])
            found[f"{layer}.lora_B.weight"] = (shape[0], _RANK)
    return filled(found)
