"""The planner's rules for nodes that it does not execute as they are: loaders, samplers, language models, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import comfy.samplers
import torch
from comfy_extras.nodes_lotus import LotusConditioning

from ...native.engines.dry_run import unwritten_zeros
from ..components.core_module import component_parts, component_patchers
from ..components.patcher import ComponentPatcher
from .geometry import depth_anything, frames_between, moge, moge_panorama, rendered, warped_noise
from .input_files import load_audio, load_image, load_image_mask, load_video
from .language import chat, language_server, prompt_expander, song
from .loaders import LOADERS
from .sampler_steps import model_calls
from .size_guard import SizeGuard
from .tracking import track_masks, tracked
from .unknown import Inputs, NodeTurn, Outputs, Rule, Unknown, Unplanned, known

_FEATURES = 640  # channels that a head for poses is given (comfy_extras/nodes_sdpose.py)
_UPSCALED, _SHARED = 512, 32  # pixels of an upscaler's tile and of its overlap (comfy_extras/nodes_upscale_model.py)


@dataclass(frozen=True)
class PlannedNode:
    """The rule of a node and the title of its phase."""

    title: str  # its work, in words; "": it does none with models
    rule: Rule  # its outputs from its inputs; notes the work of its models


def _latent(inputs: Inputs, turn: NodeTurn, space: Any) -> dict[str, Any]:
    """The latent that is sampled; an unknown one of pictures has the size to plan with. space: core's latent format."""
    size, value, ratio = turn.unknown, inputs.get("latent_image"), space.spacial_downscale_ratio
    if not isinstance(value, Unknown) or not (size.width and size.height) or space.latent_dimensions == 1:  # of sound
        return known(inputs, "latent_image")
    turn.assumptions.append(f"{size.batch} of {size.width} x {size.height} pixels, as {value.why}")
    return {"samples": unwritten_zeros((size.batch, space.latent_channels, size.height // ratio, size.width // ratio))}


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
    latent = _latent(inputs, turn, patcher.model.latent_format)
    with SizeGuard():
        ratios = {name: ratio for name, ratio in latent.items() if name.startswith("downscale_ratio_")}
        given = comfy.sample.fix_empty_latent_channels(patcher, latent["samples"], **ratios)
        samples, shapes = comfy.utils.pack_latents(given.unbind()) if given.is_nested else (given, [given.shape])
        guider.conds = {name: [dict(cond) for cond in conds] for name, conds in guider.original_conds.items()}
        comfy.samplers.preprocess_conds_hooks(guider.conds)
        options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
        comfy.sampler_helpers.prepare_model_patcher(patcher, guider.conds, options)
        more, _ = comfy.sampler_helpers.get_additional_models(guider.conds, torch.float32)
        for each in (*reversed([each for each in more if isinstance(each, ComponentPatcher)]), patcher):
            each.load()
        patcher.pre_run()
        guider.inner_model = patcher.model
        noise, sigma = torch.zeros_like(samples), torch.ones(samples.shape[0])
        mask = _denoise_mask(latent.get("noise_mask"), shapes)
        guider.conds = comfy.samplers.process_conds(
            patcher.model, noise, guider.conds, torch.device("cpu"), samples, mask, 0, latent_shapes=shapes
        )
        with turn.recorder.repeated(model_calls(inputs, patcher)):
            guider.predict_noise(noise, sigma, options, 0)
        patcher.cleanup()
        comfy.sampler_helpers.cleanup_models(guider.conds, more)
    return {**latent, "samples": given}


def _denoise_mask(given: Any, shapes: Sequence[Any]) -> torch.Tensor | None:
    """The mask of a latent of these shapes, as comfy.samplers.CFGGuider.sample prepares it."""
    if given is None:
        return None
    masks = list(given.unbind())[: len(shapes)] if given.is_nested else [given]
    masks += [torch.ones(shape) for shape in shapes[len(masks) :]]
    device = torch.device("cpu")
    made = [comfy.sampler_helpers.prepare_mask(mask, shape, device) for mask, shape in zip(masks, shapes, strict=True)]
    packed: torch.Tensor = comfy.utils.pack_latents(made)[0] if len(made) > 1 else made[0]
    return packed.float()


def _planner(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """GGML Memory Planner: passes model, clip and vae through."""
    report = Unknown("it depends on the planner's own report")
    absent = Unknown("nothing is linked to the planner's input")
    return (report, report, *(inputs.get(name, absent) for name in ("model", "clip", "vae")))


def _upscale(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """ImageUpscaleWithModel: every size of tile once, as core computes picture after picture in tiles of these."""
    model, image, size = known(inputs, "upscale_model"), inputs.get("image"), turn.unknown
    if not component_parts(model):
        raise Unplanned("its upscale model is not a GGML one", foreign=True)
    if isinstance(image, Unknown) and size.width and size.height:
        turn.assumptions.append(f"{size.batch} of {size.width} x {size.height} pixels, as {image.why}")
        image = unwritten_zeros((size.batch, size.height, size.width, 3))
    if image is None or isinstance(image, Unknown):
        image = known(inputs, "image")
    count, height, width, colours = image.shape
    for patcher in component_patchers(model):
        patcher.load()
    for (rows, down), (columns, across) in product(_tile_lengths(height), _tile_lengths(width)):
        with turn.recorder.repeated(count * down * across):
            model(unwritten_zeros((1, colours, rows, columns)))
    return (unwritten_zeros((count, round(height * model.scale), round(width * model.scale), colours)),)


def _poses(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """SDPoseKeypointExtractor: one step and the head for each batch of pictures, or for one object in each of them."""
    patcher, vae, pictures = _model(known(inputs, "model")).clone(), known(inputs, "vae"), known(inputs, "image")
    head, batch = patcher.model.diffusion_model.heatmap_head, min(int(known(inputs, "batch_size")), len(pictures))
    if inputs.get("bboxes") is not None:
        batch = 1
        turn.assumptions.append("one object in each picture")
    width, height = (4 * int(length) for length in head.heatmap_size)
    patcher.model_options["transformer_options"] = {"patches": {"output_block_patch": [_noted_features()]}}
    with turn.recorder.repeated(-(-len(pictures) // batch)):
        latent = vae.encode(unwritten_zeros((batch, height, width, 3)))
        guider = comfy.samplers.CFGGuider(patcher)
        text = LotusConditioning.execute().result[0]
        guider.set_conds(text, text)
        guider.set_cfg(1.0)
        sampler = {"steps": 1, "sampler_name": "euler", "scheduler": "simple"}
        _sampled(guider, {"latent_image": {"samples": latent}, **sampler}, turn)
        features = unwritten_zeros((batch, _FEATURES, *latent.shape[-2:]))
        head.final_layer(head.conv_layers(head.deconv_layers(features)))
    return (Unknown("a model finds it when the workflow runs"),)


def _noted_features() -> Any:
    """A patch like that of the node: it keeps what the head is given."""
    kept: torch.Tensor | None = None

    def patch(h: torch.Tensor, skipped: torch.Tensor, transformer_options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal kept
        if h.shape[1] == _FEATURES:
            kept = h.clone()
        return h, skipped

    return patch


def _tile_lengths(length: int) -> list[tuple[int, int]]:
    """The lengths of an upscaler's tiles along an axis and how many there are, as comfy.utils.tiled_scale cuts it."""
    if length <= _UPSCALED:
        return [(length, 1)]
    starts = range(0, length - _SHARED, _UPSCALED - _SHARED)
    return list(Counter(min(_UPSCALED, length - start) for start in starts).items())


def _move(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """GGML Move: its model is loaded by a node of others, which a plan does not run."""
    value = inputs.get("model")
    why = value.why if isinstance(value, Unknown) else "it comes from another loader"
    raise Unplanned(f"what it moves is only known when the workflow runs, as {why}")


RULES: Mapping[str, PlannedNode] = {
    **{node_id: PlannedNode("", loader.rule) for node_id, loader in LOADERS.items()},
    "KSampler": PlannedNode("Sampling", _k_sampler),
    "KSamplerAdvanced": PlannedNode("Sampling", _k_sampler),
    "SamplerCustom": PlannedNode("Sampling", _sampler_custom),
    "SamplerCustomAdvanced": PlannedNode("Sampling", _sampler_custom_advanced),
    "LoadAudio": PlannedNode("", load_audio),
    "LoadImage": PlannedNode("", load_image),
    "LoadImageMask": PlannedNode("", load_image_mask),
    "LoadVideo": PlannedNode("", load_video),
    "GGMLMemoryPlanner": PlannedNode("", _planner),
    "ImageUpscaleWithModel": PlannedNode("Enlarging the picture", _upscale),
    "MoGeInference": PlannedNode("Estimating geometry", moge),
    "MoGePanoramaInference": PlannedNode("Estimating geometry", moge_panorama),
    "DA3Inference": PlannedNode("Estimating depth", depth_anything),
    "MoGeRender": PlannedNode("", rendered),
    "DA3Render": PlannedNode("", rendered),
    "FrameInterpolate": PlannedNode("Drawing frames between", frames_between),
    "VOIDWarpedNoise": PlannedNode("Finding motion", warped_noise),
    "SAM3_VideoTrack": PlannedNode("Tracking objects", tracked),
    "SAM3_TrackToMask": PlannedNode("", track_masks),
    "SDPoseKeypointExtractor": PlannedNode("Finding poses", _poses),
    "TextEncodeAceStepAudio1.5": PlannedNode("", song),
    "GGMLMove": PlannedNode("Moving a model", _move),
    "GGMLLanguageServer": PlannedNode("", language_server),
    "GGMLPromptExpander": PlannedNode("Writing the prompt", prompt_expander),
    "GGMLChat": PlannedNode("Asking the language model", chat),
}
