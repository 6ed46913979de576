"""The planner's rules: how it follows nodes that use models, and which nodes it executes as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import node_helpers
import torch
from PIL import Image
from torch import Tensor

from ..components.patcher import ComponentPatcher
from ..loaders.vae import ComponentVAE
from .language import chat, language_server, prompt_expander
from .loaders import LOADERS
from .unknown import Inputs, NodeTurn, Outputs, Rule, Unknown, Unplanned, known

# Nodes of ComfyUI that are executed for the plan: quick, and without effects.
PURE = frozenset({
    "BasicGuider", "BasicScheduler", "CFGGuider", "CLIPSetLastLayer", "ConditioningAverage", "ConditioningCombine",
    "ConditioningConcat", "ConditioningSetArea", "ConditioningSetAreaPercentage", "ConditioningSetMask",
    "ConditioningSetTimestepRange", "ConditioningZeroOut", "DisableNoise", "EmptyImage", "EmptyLatentImage",
    "EmptySD3LatentImage", "FluxDisableGuidance", "FluxGuidance", "FluxKontextImageScale", "GetImageSize", "GrowMask",
    "ImageBatch", "ImageCrop", "ImageFlip", "ImageInvert", "ImagePadForOutpaint", "ImageScale", "ImageScaleBy",
    "ImageScaleToTotalPixels", "ImageToMask", "InvertMask", "KSamplerSelect", "LatentBatch", "LatentComposite",
    "LatentCrop", "LatentFlip", "LatentFromBatch", "LatentRotate", "LatentUpscale", "LatentUpscaleBy", "LoraLoader",
    "LoraLoaderModelOnly", "MaskToImage", "ModelSamplingFlux", "PrimitiveBoolean", "PrimitiveFloat", "PrimitiveInt",
    "PrimitiveString", "PrimitiveStringMultiline", "RandomNoise", "ReferenceLatent", "RepeatImageBatch",
    "RepeatLatentBatch", "SetLatentNoiseMask", "SolidMask", "SplitSigmas",
})  # fmt: skip
# Nodes that read files which are no models of this pack: their outputs may change under the same file name.
READING = frozenset({"LoadImage", "LoadImageMask", "LoraLoader", "LoraLoaderModelOnly"})


@dataclass(frozen=True)
class PlannedNode:
    """The rule of a node and the title of its phase."""

    title: str  # its work, in words; "": it does none with models
    rule: Rule  # its outputs from its inputs; notes the work of its models


def _encode(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """CLIPTextEncode and CLIPTextEncodeFlux."""
    clip = known(inputs, "clip")
    if not isinstance(getattr(clip, "patcher", None), ComponentPatcher):
        raise Unplanned("its CLIP is not a GGML one")
    if "text" in inputs:
        tokens = clip.tokenize(_text(inputs, "text", turn))
    else:
        tokens = clip.tokenize(_text(inputs, "clip_l", turn))
        tokens["t5xxl"] = clip.tokenize(_text(inputs, "t5xxl", turn))["t5xxl"]
    model = clip.cond_stage_model
    model.reset_clip_options()
    if clip.layer_idx is not None:
        model.set_clip_options({"layer": clip.layer_idx})
    model.set_clip_options({"execution_device": torch.device("cpu")})
    clip.patcher.load()
    cond, pooled = model.encode_token_weights(tokens)[:2]
    more = {"guidance": float(known(inputs, "guidance"))} if "guidance" in inputs else {}
    return ([[cond, {"pooled_output": pooled, **more}]],)


def _text(inputs: Inputs, name: str, turn: NodeTurn) -> str:
    """A text input; an unknown one is planned at its longest. T5 pads what is below 256 tokens."""
    value = inputs.get(name)
    if isinstance(value, Unknown):
        turn.assumptions.append(f"a {name} of {value.tokens} tokens, as {value.why}")
        return "a " * (value.tokens - 2)
    return str(known(inputs, name))


def _latent(inputs: Inputs, name: str, turn: NodeTurn, channels: int, ratio: int) -> dict[str, Any]:
    """A latent input; an unknown one has the size to plan with. ratio: pixels per latent element."""
    size, value = turn.unknown, inputs.get(name)
    if not isinstance(value, Unknown) or not (size.width and size.height):
        return known(inputs, name)
    turn.assumptions.append(f"{size.batch} of {size.width} x {size.height} pixels, as {value.why}")
    return {"samples": _zeros(size.batch, channels, size.height // ratio, size.width // ratio)}


def _k_sampler(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """KSampler and KSamplerAdvanced."""
    guider = comfy.samplers.CFGGuider(_model(known(inputs, "model")))
    guider.set_conds(known(inputs, "positive"), known(inputs, "negative"))
    guider.set_cfg(float(known(inputs, "cfg")))
    return (_sampled(guider, inputs, turn),)


def _sampler_custom(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """SamplerCustom."""
    (latent,) = _k_sampler(inputs, turn)
    return latent, latent


def _sampler_custom_advanced(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """SamplerCustomAdvanced."""
    guider = known(inputs, "guider")
    _model(guider.model_patcher)
    latent = _sampled(guider, inputs, turn)
    return latent, latent


def _model(patcher: Any) -> ComponentPatcher:
    if not isinstance(patcher, ComponentPatcher):
        raise Unplanned("its model is not a GGML one")
    return patcher


def _sampled(guider: Any, inputs: Inputs, turn: NodeTurn) -> dict[str, Any]:
    """The latent after one step, whose memory is that of every step; prepared as in comfy.samplers.CFGGuider.sample."""
    patcher = guider.model_patcher
    space = patcher.model.latent_format
    latent = _latent(inputs, "latent_image", turn, space.latent_channels, space.spacial_downscale_ratio)
    ratios = {name: ratio for name, ratio in latent.items() if name.startswith("downscale_ratio_")}
    given = comfy.sample.fix_empty_latent_channels(patcher, latent["samples"], **ratios)
    samples, shapes = comfy.utils.pack_latents(given.unbind()) if given.is_nested else (given, [given.shape])
    guider.conds = {name: [dict(cond) for cond in conds] for name, conds in guider.original_conds.items()}
    comfy.samplers.preprocess_conds_hooks(guider.conds)
    options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
    comfy.sampler_helpers.prepare_model_patcher(patcher, guider.conds, options)
    patcher.load()
    patcher.pre_run()
    guider.inner_model = patcher.model
    noise, sigma = torch.zeros_like(samples), torch.ones(samples.shape[0])
    mask = None
    guider.conds = comfy.samplers.process_conds(
        patcher.model, noise, guider.conds, torch.device("cpu"), samples, mask, 0, latent_shapes=shapes
    )
    guider.predict_noise(noise, sigma, options, 0)
    patcher.cleanup()
    return {**latent, "samples": given}


def _decode(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """VAEDecode and VAEDecodeTiled: a latent to [batch, height, width, channels]."""
    vae = _own_vae(inputs)
    ratio = vae.first_stage_model.ratio
    samples = _latent(inputs, "samples", turn, vae.latent_channels, ratio)["samples"]
    vae.patcher.load()
    module = vae.first_stage_model
    if "tile_size" in inputs:
        tile, overlap = (int(known(inputs, name)) // module.ratio for name in ("tile_size", "overlap"))
        pixels = module.decode_tiled(samples, tile, tile, min(overlap, tile // 4))
    else:
        pixels = module.decode(samples)
    return (pixels.movedim(1, -1),)


def _encode_picture(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """VAEEncode and VAEEncodeTiled: [batch, height, width, channels] to a latent."""
    vae, pixels, size = _own_vae(inputs), inputs.get("pixels"), turn.unknown
    if isinstance(pixels, Unknown) and size.width and size.height:
        turn.assumptions.append(f"{size.batch} of {size.width} x {size.height} pixels, as {pixels.why}")
        pixels = _zeros(size.batch, size.height, size.width, 3)
    else:
        pixels = known(inputs, "pixels")
    vae.patcher.load()
    module = vae.first_stage_model
    height, width = (size // module.ratio * module.ratio for size in pixels.shape[1:3])
    cropped = pixels[:, :height, :width, :3].movedim(-1, 1)  # [batch, 3, height, width]
    if "tile_size" in inputs:
        tile, overlap = int(known(inputs, "tile_size")), int(known(inputs, "overlap"))
        return ({"samples": module.encode_tiled(cropped, tile, tile, overlap)},)
    return ({"samples": module.encode(cropped)},)


def _encode_for_inpaint(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """VAEEncodeForInpaint: the mask only selects where noise is added, and has the picture's size."""
    (latent,) = _encode_picture(inputs, turn)
    return ({**latent, "noise_mask": known(inputs, "mask")},)


def _inpaint_conditioning(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """InpaintModelConditioning."""
    (latent,) = _encode_picture(inputs, turn)
    masked = {"concat_latent_image": latent["samples"], "concat_mask": known(inputs, "mask")}
    set_values = node_helpers.conditioning_set_values
    positive, negative = (set_values(known(inputs, name), masked) for name in ("positive", "negative"))
    return positive, negative, latent


def _own_vae(inputs: Inputs) -> ComponentVAE:
    vae = known(inputs, "vae")
    if not isinstance(vae, ComponentVAE):
        raise Unplanned("its VAE is not a GGML one")
    return vae


def _load_image(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """LoadImage: zeros in the size that the file's header gives."""
    path = Path(folder_paths.get_annotated_filepath(str(known(inputs, "image")))).resolve()
    if not path.is_relative_to(Path(folder_paths.get_input_directory()).resolve()):
        raise Unplanned("its picture is not in the input folder")
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except OSError as error:
        raise Unplanned(f"{path.name} cannot be read ({error})") from error
    return _zeros(1, height, width, 3), _zeros(1, height, width)


def _load_image_mask(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """LoadImageMask."""
    return (_load_image(inputs, turn)[1],)


def _zeros(*shape: int) -> Tensor:
    """Zeros of a shape, which take no memory."""
    return torch.zeros(()).expand(shape)


def _planner(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """GGML Memory Planner: passes model, clip and vae through."""
    report = Unknown("it depends on the planner's own report")
    absent = Unknown("nothing is linked to the planner's input")
    return (report, report, *(inputs.get(name, absent) for name in ("model", "clip", "vae")))


def _nothing(_inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """An output node without models."""
    return ()


RULES: Mapping[str, PlannedNode] = {
    **{node_id: PlannedNode("", loader.rule) for node_id, loader in LOADERS.items()},
    "CLIPTextEncode": PlannedNode("Encoding the prompt", _encode),
    "CLIPTextEncodeFlux": PlannedNode("Encoding the prompt", _encode),
    "KSampler": PlannedNode("Sampling", _k_sampler),
    "KSamplerAdvanced": PlannedNode("Sampling", _k_sampler),
    "SamplerCustom": PlannedNode("Sampling", _sampler_custom),
    "SamplerCustomAdvanced": PlannedNode("Sampling", _sampler_custom_advanced),
    "VAEDecode": PlannedNode("Decoding the picture", _decode),
    "VAEDecodeTiled": PlannedNode("Decoding the picture", _decode),
    "VAEEncode": PlannedNode("Encoding the picture", _encode_picture),
    "VAEEncodeTiled": PlannedNode("Encoding the picture", _encode_picture),
    "VAEEncodeForInpaint": PlannedNode("Encoding the picture", _encode_for_inpaint),
    "InpaintModelConditioning": PlannedNode("Encoding the picture", _inpaint_conditioning),
    "LoadImage": PlannedNode("", _load_image),
    "LoadImageMask": PlannedNode("", _load_image_mask),
    "GGMLMemoryPlanner": PlannedNode("", _planner),
    "GGMLLanguageServer": PlannedNode("", language_server),
    "GGMLPromptExpander": PlannedNode("Writing the prompt", prompt_expander),
    "GGMLChat": PlannedNode("Asking the language model", chat),
    "SaveImage": PlannedNode("", _nothing),
    "PreviewImage": PlannedNode("", _nothing),
}
