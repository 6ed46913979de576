"""Graphs of random workflows: the same for the same number."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from .any_diffusion import SMALL, Small

LENGTH = 5  # workflows of a sequence
FAMILIES = 5  # every such sequence is of a small model
GPU = "Vulkan0"
DEVICES = ("CPU", GPU)
RESIDENCIES = ("auto", "auto", "device", "ram", "disk")
FLUX = tuple(f"flux1-schnell-micro-{kind}" for kind in ("F16.gguf", "Q8_0.gguf", "Q4_0.gguf", "fp8_e4m3fn.safetensors"))
CLIP = {"clip_name1": "t5-micro-encoder-Q8_0.gguf", "clip_name2": "clip_l-micro_fp8_e4m3fn.safetensors"}
TOKENS = 9
ALONE = ("HunyuanVideo", "MiniMaxH3")  # small models of which ComfyUI computes no batch

Graph = dict[str, dict[str, Any]]


class _Writer:
    """Writes a workflow node by node."""

    def __init__(self, random_: random.Random, number: int) -> None:
        self.random = random_
        self.number = number
        self.graph: Graph = {}

    def add(self, class_type: str, **inputs: Any) -> str:
        name = str(len(self.graph) + 1)
        self.graph[name] = {"class_type": class_type, "inputs": inputs}
        return name

    def placed(self) -> dict[str, Any]:
        choose = self.random.choice
        return {"device": choose(DEVICES), "weights": choose(RESIDENCIES), "engine": "ggml", "budget": 0}

    def side(self) -> int:
        return 8 * self.random.randint(8, 28)

    def prompt(self, clip: list[Any]) -> list[Any]:
        words = self.random.choice((2, 5, 30, 90, 200))
        begins = f"{self.number}, {len(self.graph)}: "  # else ComfyUI knows the result of another one
        return [self.add("CLIPTextEncode", clip=clip, text=begins + "a red circle " * words), 0]


def flux(random_: random.Random, number: int, loaders: dict[str, Any]) -> Graph:
    """Text or a picture to a picture with the micro models. loaders: of the workflow before, some of which stay."""
    w, chance = _Writer(random_, number), lambda p: random_.random() < p
    if not loaders or chance(0.5):
        loaders["model"] = {"model_name": random_.choice(FLUX), **w.placed()}
    if "clip" not in loaders or chance(0.3):
        loaders["clip"] = {**CLIP, **w.placed()}
    if "vae" not in loaders or chance(0.3):
        tiling = random_.choice(("auto", "off", "on"))
        tile = random_.choice((64, 128)) if tiling == "on" else 0
        loaders["vae"] = {
            "vae_name": "ae-micro.safetensors",
            "tiling": tiling,
            "tile_size": tile,
            "overlap": 16,
            **w.placed(),
        }
    model = [w.add("GGMLDiffusionModel", **loaders["model"]), 0]
    clip, vae = [w.add("GGMLTextEncoders", **loaders["clip"]), 0], [w.add("GGMLVAE", **loaders["vae"]), 0]
    if chance(0.3):
        lora = {"lora_name": "pink-lora-micro.safetensors", "strength_model": random_.choice((0.5, 1.0))}
        if chance(0.5):
            node = w.add("LoraLoader", model=model, clip=clip, strength_clip=1.0, **lora)
            model, clip = [node, 0], [node, 1]
        else:
            model = [w.add("LoraLoaderModelOnly", model=model, **lora), 0]
    positive = w.prompt(clip)
    negative = w.prompt(clip) if chance(0.4) else [w.add("ConditioningZeroOut", conditioning=positive), 0]
    latent, denoise = _start(w, vae)
    cfg = random_.choice((1.0, 1.0, 2.5))
    sampling = {"seed": number, "steps": 1, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple"}
    conds = {"positive": positive, "negative": negative}
    latent = [w.add("KSampler", model=model, latent_image=latent, denoise=denoise, **conds, **sampling), 0]
    if chance(0.4):
        if chance(0.5):
            model = [w.add("GGMLDiffusionModel", model_name=random_.choice(FLUX), **w.placed()), 0]
        if chance(0.7):
            size = {"width": w.side(), "height": w.side(), "upscale_method": "nearest-exact", "crop": "disabled"}
            latent = [w.add("LatentUpscale", samples=latent, **size), 0]
        latent = [w.add("KSampler", model=model, latent_image=latent, denoise=0.5, **conds, **sampling), 0]
    if chance(0.3):
        tiles = {"tile_size": random_.choice((64, 128)), "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
        image = [w.add("VAEDecodeTiled", samples=latent, vae=vae, **tiles), 0]
    else:
        image = [w.add("VAEDecode", samples=latent, vae=vae), 0]
    w.add("PreviewImage", images=image)
    return w.graph


def _start(w: _Writer, vae: list[Any]) -> tuple[list[Any], float]:
    """The latent to begin with, and how much of it is denoised."""
    size = {"width": w.side(), "height": w.side(), "batch_size": w.random.choice((1, 1, 2, 3))}
    kind = w.random.choice(("empty", "empty", "picture", "tiled", "inpaint", "mask"))
    if kind == "empty":
        return [w.add("EmptySD3LatentImage", **size), 0], 1.0
    pixels = [w.add("EmptyImage", color=w.number, **size), 0]
    mask = [w.add("SolidMask", value=1.0, width=size["width"], height=size["height"]), 0]
    if kind == "inpaint":
        node = w.add("VAEEncodeForInpaint", pixels=pixels, vae=vae, mask=mask, grow_mask_by=6)
        return [node, 0], 1.0
    tiles = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    tiled = kind == "tiled"
    node = w.add("VAEEncodeTiled" if tiled else "VAEEncode", pixels=pixels, vae=vae, **(tiles if tiled else {}))
    if kind == "mask":
        node = w.add("SetLatentNoiseMask", samples=[node, 0], mask=mask)
    return [node, 0], 0.5


def small_family(random_: random.Random, number: int, kind: str, loaders: dict[str, Any]) -> Graph:
    """Sampling with a small model of another family, once or twice."""
    w = _Writer(random_, number)
    if not loaders or random_.random() < 0.5:
        loaders["model"] = w.placed()
    model = [w.add("GGMLDiffusionModel", model_name=f"{kind}.safetensors", **loaders["model"]), 0]
    seed = [w.add("PrimitiveInt", value=number), 0]
    batch = random_.choice((1, 2)) if kind not in ALONE else 1
    made = w.add("SmallInputs", kind=kind, batch=batch, tokens=TOKENS, seed=seed)
    sampling = {"seed": number, "steps": 1, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    conds = {"positive": [made, 0], "negative": [made, 0], "cfg": random_.choice((1.0, 2.5))}
    latent = [w.add("KSampler", model=model, latent_image=[made, 1], **conds, **sampling), 0]
    w.add("TakeLatent", samples=latent)
    return w.graph


@dataclass
class Sequence:
    """Workflows that run one after the other. small: the model of another family that they use."""

    number: int
    graphs: list[Graph] = field(default_factory=list)
    small: Small | None = None


def sequence(number: int) -> Sequence:
    """The sequence of that number, the same each time."""
    random_, loaders = random.Random(number), dict[str, Any]()
    if number % FAMILIES != FAMILIES - 1:
        graphs = [flux(random_, LENGTH * number + each, loaders) for each in range(LENGTH)]
        return Sequence(number, graphs)
    small = SMALL[number // FAMILIES * 7 % len(SMALL)]
    graphs = [small_family(random_, LENGTH * number + each, small.kind, loaders) for each in range(LENGTH)]
    return Sequence(number, graphs, small)
