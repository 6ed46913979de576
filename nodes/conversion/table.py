"""The table of foreign loaders, one row each: which loader of this pack takes its place, and what of its inputs.

Foreign are those of ComfyUI, of ComfyUI-GGUF and its forks, and of ComfyUI-MultiGPU. A row whose loader of this pack is
not registered is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...native.placement import AUTO, CPU

CONTROL_NET, CLIP_VISION = "CONTROL_NET", "CLIP_VISION"
# What loaders put out. A node that puts out one of these and takes none is a loader.
MODELS = frozenset({
    "MODEL", "CLIP", "VAE", CONTROL_NET, CLIP_VISION, "UPSCALE_MODEL", "LATENT_UPSCALE_MODEL", "MODEL_PATCH",
    "AUDIO_ENCODER", "STYLE_MODEL", "GLIGEN", "BACKGROUND_REMOVAL", "MOGE_MODEL", "DA3_MODEL", "INTERP_MODEL",
    "OPTICAL_FLOW",
})  # fmt: skip


@dataclass(frozen=True)
class Carried:
    """An input whose value one of ours gets."""

    name: str  # of our input
    values: Mapping[Any, Any] = field(default_factory=dict)  # ours for theirs where the two differ
    otherwise: str = ""  # instead of a value that ours does not offer; "": such a loader is not converted


@dataclass(frozen=True)
class Dropped:
    """An input that our loader has none like."""

    why: str  # the end of a sentence about the input
    neutral: tuple[Any, ...] = ()  # values that need no word
    keeps: bool = False  # a loader with any other value is not converted


Input = Carried | Dropped


@dataclass(frozen=True)
class Row:
    """A foreign loader, and the loader of this pack that takes its place."""

    foreign: str  # its class
    ours: str  # node id
    inputs: Mapping[str, Input]  # by name, widgets in the editor's order
    outputs: tuple[str, ...]  # types
    given: Mapping[str, Any] = field(default_factory=dict)  # inputs of ours that follow from the class


_TYPE = Carried("type", otherwise="stable_diffusion")  # as core does with a type that it does not know
_DEVICE = Carried("device", values={"default": AUTO, "cpu": CPU})
_STORED = "weights are computed with as they are stored in the file"
_DTYPE = Dropped(_STORED, neutral=("default",))
_PLACED = Dropped("the placement is auto")
_CONFIG = Dropped(
    "it says more than the model file, such as which layer of CLIP is used; "
    "use Load Checkpoint, and CLIP Set Last Layer for the layer",
    neutral=(
        "v1-inference.yaml", "v1-inference_fp16.yaml", "v1-inpainting-inference.yaml", "v2-inference.yaml",
        "v2-inference_fp32.yaml", "v2-inpainting-inference.yaml",
    ),
    keeps=True,
)  # fmt: skip


def _diffusion(foreign: str, **more: Input) -> Row:
    return Row(foreign, "GGMLDiffusionModel", {"unet_name": Carried("model_name"), **more}, ("MODEL",))


def _encoders(foreign: str, count: int, kind: str = "", **more: Input) -> Row:
    """kind: the type of models, where the class has no input for it."""
    names = ["clip_name"] if count == 1 else [f"clip_name{number}" for number in range(1, count + 1)]
    inputs: dict[str, Input] = {name: Carried(f"clip_name{number}") for number, name in enumerate(names, 1)}
    typed: dict[str, Input] = {} if kind else {"type": _TYPE}
    return Row(foreign, "GGMLTextEncoders", inputs | typed | more, ("CLIP",), {"type": kind} if kind else {})


def _vae(foreign: str, name: str = "vae_name") -> Row:
    return Row(foreign, "GGMLVAE", {name: Carried("vae_name")}, ("VAE",))


def _checkpoint(foreign: str, *outputs: str, **before: Input) -> Row:
    inputs: dict[str, Input] = {**before, "ckpt_name": Carried("ckpt_name")}
    return Row(foreign, "GGMLCheckpoint", inputs, outputs or ("MODEL", "CLIP", "VAE"))


_CORE = (
    _diffusion("UNETLoader", weight_dtype=_DTYPE),
    _encoders("CLIPLoader", 1, device=_DEVICE),
    _encoders("DualCLIPLoader", 2, device=_DEVICE),
    _encoders("TripleCLIPLoader", 3, "stable_diffusion"),
    _encoders("QuadrupleCLIPLoader", 4, "stable_diffusion"),
    _vae("VAELoader"),
    _checkpoint("CheckpointLoaderSimple"),
)
_GGUF = (
    _diffusion("UnetLoaderGGUF"),
    _diffusion(
        "UnetLoaderGGUFAdvanced", dequant_dtype=_DTYPE, patch_dtype=_DTYPE,
        patch_on_device=Dropped("a LoRA is computed beside the weights", neutral=(False,)),
    ),
    _encoders("CLIPLoaderGGUF", 1),
    _encoders("DualCLIPLoaderGGUF", 2),
    _encoders("TripleCLIPLoaderGGUF", 3, "sd3"),
    _encoders("QuadrupleCLIPLoaderGGUF", 4, "stable_diffusion"),
)  # fmt: skip
# ComfyUI-MultiGPU's classes are named after the class they wrap; their inputs about devices stand behind its own.
_DISTORCH = ("virtual_vram_gb", "use_other_vram", "expert_mode_allocations")
_DISTORCH2 = ("virtual_vram_gb", "donor_device", "expert_mode_allocations", "eject_models")


def _on_devices(row: Row, suffix: str, *names: str) -> Row:
    own = {name: each for name, each in row.inputs.items() if name not in names}
    placed: dict[str, Input] = dict.fromkeys(names, _PLACED)
    return replace(row, foreign=row.foreign + suffix, inputs=own | placed)


def _of_multigpu() -> Iterator[Row]:
    for row in (*_CORE, *_GGUF):
        yield _on_devices(row, "MultiGPU", "device")
        device = "device" if row.ours == "GGMLTextEncoders" else "compute_device"
        yield _on_devices(row, "DisTorch2MultiGPU", device, *_DISTORCH2)
    for row in _GGUF:
        yield _on_devices(row, "DisTorchMultiGPU", "device", *_DISTORCH)
    whole = _checkpoint("CheckpointLoaderAdvanced")
    yield _on_devices(whole, "MultiGPU", "unet_device", "clip_device", "vae_device")
    parts = [f"{part}_{name}" for part in ("unet", "clip") for name in ("compute_device", *_DISTORCH2[:2])]
    experts = ("unet_expert_mode_allocations", "clip_expert_mode_allocations", "high_precision_loras")
    yield _on_devices(whole, "DisTorch2MultiGPU", *parts, "vae_device", *experts)


def _single(foreign: str, name: str, ours: str, our_name: str, output: str) -> Row:
    """A loader whose one input is its file."""
    return Row(foreign, ours, {name: Carried(our_name)}, (output,))


ROWS: Mapping[str, Row] = {
    row.foreign: row
    for row in (
        *_CORE,
        _checkpoint("CheckpointLoader", config_name=_CONFIG),
        _checkpoint("ImageOnlyCheckpointLoader", "MODEL", CLIP_VISION, "VAE"),
        _checkpoint("unCLIPCheckpointLoader", "MODEL", "CLIP", "VAE", CLIP_VISION),
        _vae("LTXVAudioVAELoader", "ckpt_name"),
        Row(
            "LTXAVTextEncoderLoader", "GGMLTextEncoders",
            {"text_encoder": Carried("clip_name1"), "ckpt_name": Carried("clip_name2"), "device": _DEVICE},
            ("CLIP",), {"type": "ltxv"},
        ),
        *_GGUF,
        *(replace(row, foreign=f"{row.foreign}DynamicVRAM") for row in _GGUF if "Advanced" not in row.foreign),
        _vae("VAELoaderGGUF"),
        *_of_multigpu(),
        _single("ControlNetLoader", "control_net_name", "GGMLControlNet", "control_net_name", CONTROL_NET),
        _single("CLIPVisionLoader", "clip_name", "GGMLClipVision", "clip_name", CLIP_VISION),
        _single("UpscaleModelLoader", "model_name", "GGMLUpscaleModel", "model_name", "UPSCALE_MODEL"),
        _single(
            "LatentUpscaleModelLoader", "model_name", "GGMLLatentUpscaleModel", "model_name", "LATENT_UPSCALE_MODEL"
        ),
        _single("ModelPatchLoader", "name", "GGMLModelPatch", "name", "MODEL_PATCH"),
        _single("AudioEncoderLoader", "audio_encoder_name", "GGMLAudioEncoder", "audio_encoder_name", "AUDIO_ENCODER"),
        _single(
            "LoadBackgroundRemovalModel", "bg_removal_name", "GGMLBackgroundRemoval", "bg_removal_name",
            "BACKGROUND_REMOVAL",
        ),
        _single("LoadMoGeModel", "model_name", "GGMLMoGeModel", "model_name", "MOGE_MODEL"),
        Row(
            "LoadDA3Model", "GGMLDepthAnything3", {"model_name": Carried("model_name"), "weight_dtype": _DTYPE},
            ("DA3_MODEL",),
        ),
        _single("FrameInterpolationModelLoader", "model_name", "GGMLFrameInterpolation", "model_name", "INTERP_MODEL"),
        _single("OpticalFlowLoader", "model_name", "GGMLOpticalFlow", "model_name", "OPTICAL_FLOW"),
    )
}  # fmt: skip
