"""The planner's rules for nodes that estimate the geometry of pictures, draw frames between them, or find motion."""

from __future__ import annotations

from typing import Any

import torch

from ...native.engines.dry_run import unwritten_zeros
from ..components.core_module import component_parts, component_patchers
from .size_guard import SizeGuard
from .unknown import Inputs, NodeTurn, Outputs, Unknown, Unplanned, known

_VIEWS = 12  # of a panorama (comfy/ldm/moge/panorama.py)
_HALF, _STRIDE, _CHANNELS = 0.5, 8, 16  # of frames whose motion is found, and of noise (comfy_extras/nodes_void.py)
_FIELD = 60.0  # degrees: any that is given, as without one core looks for it in the values


def _model(inputs: Inputs, name: str) -> Any:
    """A model of this pack, loaded."""
    model = known(inputs, name)
    if not component_parts(model):
        raise Unplanned("its model is not a GGML one", foreign=True)
    for patcher in component_patchers(model):
        patcher.load()
    return model


def pictures_of(inputs: Inputs, name: str, turn: NodeTurn) -> torch.Tensor:
    """Pictures [count, height, width, colours]; unknown ones have the size to plan with."""
    value, size = inputs.get(name), turn.unknown
    if isinstance(value, Unknown) and size.width and size.height:
        turn.assumptions.append(f"{size.batch} of {size.width} x {size.height} pixels, as {value.why}")
        return unwritten_zeros((size.batch, size.height, size.width, 3))
    pictures: torch.Tensor = known(inputs, name)
    return pictures


def _geometry(count: int, height: int, width: int) -> Outputs:
    """Geometry of which no more is known than the size."""
    return ({"image": unwritten_zeros((count, height, width, 3))},)


def moge(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """MoGeInference: each size of batch once."""
    model, (count, height, width, _) = _model(inputs, "moge_model"), pictures_of(inputs, "image", turn).shape
    level, batch = int(known(inputs, "resolution_level")), int(known(inputs, "batch_size"))
    _infer(model, turn, count, batch, (height, width), level)
    return _geometry(count, height, width)


def moge_panorama(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """MoGePanoramaInference: its views; they are put together without a model."""
    model, (count, height, width, _) = _model(inputs, "moge_model"), pictures_of(inputs, "image", turn).shape
    side, level = int(known(inputs, "split_resolution")), int(known(inputs, "resolution_level"))
    _infer(model, turn, _VIEWS, int(known(inputs, "batch_size")), (side, side), level)
    return _geometry(count, height, width)


def _infer(model: Any, turn: NodeTurn, count: int, batch: int, size: tuple[int, int], level: int) -> None:
    for pictures, times in ((min(batch, count), count // batch or 1), (count % batch if count > batch else 0, 1)):
        if pictures:
            with turn.recorder.repeated(times), SizeGuard():
                zeros = unwritten_zeros((pictures, 3, *size))
                model.infer(zeros, resolution_level=level, fov_x=_FIELD, apply_mask=False)


def depth_anything(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """DA3Inference: pictures one by one, or as views all at once."""
    from comfy.ldm.depth_anything_3.preprocess import preprocess_image  # older ComfyUIs have none

    model, (count, height, width, _) = _model(inputs, "da3_model"), pictures_of(inputs, "image", turn).shape
    module, views = model.model.diffusion_model, known(inputs, "mode") == "multiview"
    how = {"process_res": int(known(inputs, "resolution")), "method": known(inputs, "resize_method")}
    with SizeGuard():
        pictures = preprocess_image(unwritten_zeros((count if views else 1, height, width, 3)), **how)
        if views:
            rays = known(inputs, "mode.pose_method") == "ray_pose"
            module(pictures[None], use_ray_pose=rays, ref_view_strategy=known(inputs, "mode.ref_view_strategy"))
        else:
            with turn.recorder.repeated(count):
                module(pictures)
    return _geometry(count, height, width)


def rendered(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """MoGeRender and DA3Render: a picture for each."""
    geometry = known(inputs, "moge_geometry" if "moge_geometry" in inputs else "da3_geometry")
    return (unwritten_zeros(geometry["image"].shape),)


def frames_between(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """FrameInterpolate: one pair of frames, whose first has the features that the pair before has left."""
    model, images = _model(inputs, "interp_model"), pictures_of(inputs, "images", turn)
    (count, height, width, _), times = images.shape, int(known(inputs, "multiplier"))
    if count < 2 or times < 2:
        return (images,)
    module, made = model.model, times - 1
    align = getattr(module, "pad_align", 1)
    frame = unwritten_zeros((1, 3, -(-height // align) * align, -(-width // align) * align))
    with SizeGuard():
        first = module.extract_features(frame)
        with turn.recorder.repeated(count - 1):
            second = module.extract_features(frame.clone())
            cache = {"img0": first, "img1": second, "next": second}
            pair = frame, frame.clone()
            at = [number / times for number in range(1, times)]
            if hasattr(module, "forward_multi_timestep"):
                module.forward_multi_timestep(*pair, at, cache=cache)
            else:
                steps = unwritten_zeros((made, 1, 1, 1)).expand(-1, 1, *frame.shape[2:])
                module(*(each.expand(made, -1, -1, -1) for each in pair), timestep=steps, cache=cache)
    return (unwritten_zeros(((count - 1) * times + 1, height, width, 3)),)


def warped_noise(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """VOIDWarpedNoise: the motion between two frames of half the size; noise is moved by it without a model."""
    from comfy_extras.nodes_void import TEMPORAL_COMPRESSION, _valid_void_length  # older ComfyUIs have none

    model, count = _model(inputs, "optical_flow"), len(pictures_of(inputs, "video", turn))
    width, height, batch = (int(known(inputs, name)) for name in ("width", "height", "batch_size"))
    length = _valid_void_length(int(known(inputs, "length")))
    rows, columns = (int(side * _HALF) // _STRIDE * _STRIDE for side in (height, width))
    pairs = min(count, length) - 1
    if pairs > 0:
        with turn.recorder.repeated(pairs), SizeGuard():
            model.model(*(unwritten_zeros((1, 3, rows, columns)) for _ in range(2)))
    frames = (length - 1) // TEMPORAL_COMPRESSION + 1
    return ({"samples": unwritten_zeros((batch, _CHANNELS, frames, height // 8, width // 8))},)
