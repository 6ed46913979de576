"""What nodes do that use models, and which others are quick and do nothing but make their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import node_helpers
import torch
from PIL import Image
from torch import Tensor

from ...native.llm.styles import TARGETS
from ..components.patcher import ComponentPatcher
from ..language.model import GGMLLanguageModel
from ..loaders.diffusion import GGMLDiffusionModel
from ..loaders.text_encoders import encoders_of
from ..loaders.vae import GGMLVAE, ComponentVAE
from .language import PlacedLanguageModel, taken_by
from .unknown import NodeTurn, Unknown, Unplanned

Inputs = Mapping[str, Any]
Values = tuple[Any, ...]
# Nodes of ComfyUI that are executed for the plan as they are.
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
# Nodes that read files which are not models of this pack: what they make may change under the same name.
READING = frozenset({"LoadImage", "LoadImageMask", "LoraLoader", "LoraLoaderModelOnly"})


@dataclass(frozen=True)
class Rule:
    """make: a node's outputs from its inputs, its models' work noted; title: that work in words, "" for none."""

    title: str
    make: Callable[[Inputs, NodeTurn], Values]


def known(inputs: Inputs, name: str) -> Any:
    """An input; raises Unplanned for one that is not known or not there."""
    if name not in inputs:
        raise Unplanned(f"its input {name} is missing")
    value = inputs[name]
    if isinstance(value, Unknown):
        raise Unplanned(value.why)
    return value


def _diffusion_model(inputs: Inputs, _following: NodeTurn) -> Values:
    return tuple(GGMLDiffusionModel.execute(**_all(inputs)).result)


def _text_encoders(inputs: Inputs, _following: NodeTurn) -> Values:
    return (encoders_of(**_all(inputs))[0],)


def _vae(inputs: Inputs, _following: NodeTurn) -> Values:
    return tuple(GGMLVAE.execute(**_all(inputs)).result)


def _all(inputs: Inputs) -> dict[str, Any]:
    return {name: known(inputs, name) for name in inputs}


def _encode(inputs: Inputs, following: NodeTurn) -> Values:
    """CLIPTextEncode and its like for FLUX.1."""
    clip = known(inputs, "clip")
    if not isinstance(getattr(clip, "patcher", None), ComponentPatcher):
        raise Unplanned("its CLIP is not a GGML one")
    if "text" in inputs:
        tokens = clip.tokenize(_text(inputs, "text", following))
    else:
        tokens = clip.tokenize(_text(inputs, "clip_l", following))
        tokens["t5xxl"] = clip.tokenize(_text(inputs, "t5xxl", following))["t5xxl"]
    model = clip.cond_stage_model
    model.reset_clip_options()
    if clip.layer_idx is not None:
        model.set_clip_options({"layer": clip.layer_idx})
    model.set_clip_options({"execution_device": torch.device("cpu")})
    clip.patcher.load()
    cond, pooled = model.encode_token_weights(tokens)[:2]
    more = {"guidance": float(known(inputs, "guidance"))} if "guidance" in inputs else {}
    return ([[cond, {"pooled_output": pooled, **more}]],)


def _text(inputs: Inputs, name: str, following: NodeTurn) -> str:
    """A text that is not known is taken to be as long as it may be; T5 pads what is below 256 tokens."""
    value = inputs.get(name)
    if isinstance(value, Unknown):
        following.taken.append(f"a {name} of {value.tokens} tokens, as {value.why}")
        return "a " * (value.tokens - 2)
    return str(known(inputs, name))


def _latent(inputs: Inputs, name: str, following: NodeTurn, channels: int, ratio: int) -> dict[str, Any]:
    """A latent; one that is not known has the size that is taken for such."""
    size, value = following.unknown, inputs.get(name)
    if not isinstance(value, Unknown) or not (size.width and size.height):
        return known(inputs, name)
    following.taken.append(f"{size.batch} of {size.width} x {size.height} pixels, as {value.why}")
    return {"samples": _zeros(size.batch, channels, size.height // ratio, size.width // ratio)}


def _k_sampler(inputs: Inputs, following: NodeTurn) -> Values:
    guider = comfy.samplers.CFGGuider(_model(known(inputs, "model")))
    guider.set_conds(known(inputs, "positive"), known(inputs, "negative"))
    guider.set_cfg(float(known(inputs, "cfg")))
    return (_sampled(guider, inputs, following),)


def _sampler_custom(inputs: Inputs, following: NodeTurn) -> Values:
    (latent,) = _k_sampler(inputs, following)
    return latent, latent


def _sampler_custom_advanced(inputs: Inputs, following: NodeTurn) -> Values:
    guider = known(inputs, "guider")
    _model(guider.model_patcher)
    latent = _sampled(guider, inputs, following)
    return latent, latent


def _model(patcher: Any) -> ComponentPatcher:
    if not isinstance(patcher, ComponentPatcher):
        raise Unplanned("its model is not a GGML one")
    return patcher


def _sampled(guider: Any, inputs: Inputs, following: NodeTurn) -> dict[str, Any]:
    """One step, which takes what every step does (as comfy.samplers.CFGGuider.sample prepares it)."""
    patcher = guider.model_patcher
    space = patcher.model.latent_format
    latent = _latent(inputs, "latent_image", following, space.latent_channels, space.spacial_downscale_ratio)
    ratios = {name: ratio for name, ratio in latent.items() if name.startswith("downscale_ratio_")}
    samples = comfy.sample.fix_empty_latent_channels(patcher, latent["samples"], **ratios)
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
        patcher.model, noise, guider.conds, torch.device("cpu"), samples, mask, 0, latent_shapes=[samples.shape]
    )
    guider.predict_noise(noise, sigma, options, 0)
    patcher.cleanup()
    return {**latent, "samples": samples}


def _decode(inputs: Inputs, following: NodeTurn) -> Values:
    vae = _own_vae(inputs)
    ratio = vae.first_stage_model.ratio
    samples = _latent(inputs, "samples", following, vae.latent_channels, ratio)["samples"]
    vae.patcher.load()
    module = vae.first_stage_model
    if "tile_size" in inputs:
        tile, overlap = (int(known(inputs, name)) // module.ratio for name in ("tile_size", "overlap"))
        pixels = module.decode_tiled(samples, tile, tile, min(overlap, tile // 4))
    else:
        pixels = module.decode(samples)
    return (pixels.movedim(1, -1),)


def _encode_picture(inputs: Inputs, following: NodeTurn) -> Values:
    vae, pixels, size = _own_vae(inputs), inputs.get("pixels"), following.unknown
    if isinstance(pixels, Unknown) and size.width and size.height:
        following.taken.append(f"{size.batch} of {size.width} x {size.height} pixels, as {pixels.why}")
        pixels = _zeros(size.batch, size.height, size.width, 3)
    else:
        pixels = known(inputs, "pixels")
    vae.patcher.load()
    module = vae.first_stage_model
    height, width = (size // module.ratio * module.ratio for size in pixels.shape[1:3])
    cut = pixels[:, :height, :width, :3].movedim(-1, 1)
    if "tile_size" in inputs:
        tile, overlap = int(known(inputs, "tile_size")), int(known(inputs, "overlap"))
        return ({"samples": module.encode_tiled(cut, tile, tile, overlap)},)
    return ({"samples": module.encode(cut)},)


def _encode_for_inpaint(inputs: Inputs, following: NodeTurn) -> Values:
    """The mask only says where noise goes, and has the picture's size."""
    (latent,) = _encode_picture(inputs, following)
    return ({**latent, "noise_mask": known(inputs, "mask")},)


def _inpaint_conditioning(inputs: Inputs, following: NodeTurn) -> Values:
    (latent,) = _encode_picture(inputs, following)
    masked = {"concat_latent_image": latent["samples"], "concat_mask": known(inputs, "mask")}
    set_values = node_helpers.conditioning_set_values
    positive, negative = (set_values(known(inputs, name), masked) for name in ("positive", "negative"))
    return positive, negative, latent


def _own_vae(inputs: Inputs) -> ComponentVAE:
    vae = known(inputs, "vae")
    if not isinstance(vae, ComponentVAE):
        raise Unplanned("its VAE is not a GGML one")
    return vae


def _load_image(inputs: Inputs, _following: NodeTurn) -> Values:
    """A picture's size from its header."""
    path = Path(folder_paths.get_annotated_filepath(str(known(inputs, "image")))).resolve()
    if not path.is_relative_to(Path(folder_paths.get_input_directory()).resolve()):
        raise Unplanned("its picture is not in the input folder")
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except OSError as error:
        raise Unplanned(f"{path.name} cannot be read ({error})") from error
    return _zeros(1, height, width, 3), _zeros(1, height, width)


def _load_image_mask(inputs: Inputs, following: NodeTurn) -> Values:
    return (_load_image(inputs, following)[1],)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(()).expand(shape)


def _planner(inputs: Inputs, _following: NodeTurn) -> Values:
    """What is in its line goes through."""
    shown = Unknown("it depends on the planner's own report")
    absent = Unknown("nothing is linked to the planner's input")
    return (shown, shown, *(inputs.get(name, absent) for name in ("model", "clip", "vae")))


def _language_model(inputs: Inputs, following: NodeTurn) -> Values:
    (model,) = GGMLLanguageModel.execute(**_all(inputs)).result
    return (PlacedLanguageModel(model, following.recorder.part.node),)


def _language_server(_inputs: Inputs, _following: NodeTurn) -> Values:
    return (None,)  # it takes nothing of this machine


def _expander(inputs: Inputs, following: NodeTurn) -> Values:
    target = TARGETS.get(str(known(inputs, "target")))
    if target is None:
        raise Unplanned(f"it knows no target {inputs['target']!r}")
    written = _written(inputs, following, target.tokens)
    return written, written, written


def _chat(inputs: Inputs, following: NodeTurn) -> Values:
    return (_written(inputs, following, 256),)


def _written(inputs: Inputs, following: NodeTurn, tokens: int) -> Unknown:
    """What a language model writes, its coming noted."""
    model = known(inputs, "llm")
    if isinstance(model, PlacedLanguageModel):
        following.recorder.note_external(taken_by(model.model, following), model.loader)
    return Unknown("a language model writes it", tokens)


def _nothing(_inputs: Inputs, _following: NodeTurn) -> Values:
    return ()


RULES: Mapping[str, Rule] = {
    "GGMLDiffusionModel": Rule("", _diffusion_model),
    "GGMLTextEncoders": Rule("", _text_encoders),
    "GGMLVAE": Rule("", _vae),
    "CLIPTextEncode": Rule("Encoding the prompt", _encode),
    "CLIPTextEncodeFlux": Rule("Encoding the prompt", _encode),
    "KSampler": Rule("Sampling", _k_sampler),
    "KSamplerAdvanced": Rule("Sampling", _k_sampler),
    "SamplerCustom": Rule("Sampling", _sampler_custom),
    "SamplerCustomAdvanced": Rule("Sampling", _sampler_custom_advanced),
    "VAEDecode": Rule("Decoding the picture", _decode),
    "VAEDecodeTiled": Rule("Decoding the picture", _decode),
    "VAEEncode": Rule("Encoding the picture", _encode_picture),
    "VAEEncodeTiled": Rule("Encoding the picture", _encode_picture),
    "VAEEncodeForInpaint": Rule("Encoding the picture", _encode_for_inpaint),
    "InpaintModelConditioning": Rule("Encoding the picture", _inpaint_conditioning),
    "LoadImage": Rule("", _load_image),
    "LoadImageMask": Rule("", _load_image_mask),
    "GGMLMemoryPlanner": Rule("", _planner),
    "GGMLLanguageModel": Rule("", _language_model),
    "GGMLLanguageServer": Rule("", _language_server),
    "GGMLPromptExpander": Rule("Writing the prompt", _expander),
    "GGMLChat": Rule("Asking the language model", _chat),
    "SaveImage": Rule("", _nothing),
    "PreviewImage": Rule("", _nothing),
}
