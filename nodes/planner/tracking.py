"""The planner's rules for nodes that follow objects through a video."""

from __future__ import annotations

from contextlib import ExitStack

import torch

import nodes as core

from ...native.engines.dry_run import Recorder, unwritten_zeros
from ..components.core_function import with_names
from ..components.patcher import ComponentPatcher
from .geometry import pictures_of
from .size_guard import SizeGuard
from .unknown import Inputs, NodeTurn, Outputs, Unplanned, known

_MOST = 63  # objects; with one more core looks for no others (comfy/ldm/sam3/tracker.py)
_NEVER = 1.0  # a score that nothing has


class _Frames:
    """The progress bar of a node, by which the steps of the last frame that is planned count for all that follow."""

    def __init__(self, recorder: Recorder, planned: int, count: int) -> None:
        self._recorder, self._planned, self._count = recorder, planned, count
        self._done = 0
        self.open = ExitStack()

    def update(self, _frames: int) -> None:
        """One frame is done; those of each object come one after another."""
        self._done += 1
        self.open.close()
        if self._done % self._planned == self._planned - 1:
            self.open.enter_context(self._recorder.repeated(self._count - self._planned + 1))


def tracked(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """SAM3_VideoTrack: frames until it remembers as many earlier ones as it can, the last of which is like all others.

    It follows as many objects as there are masks or as it may find by words, from the first frame on.
    """
    patcher, images = known(inputs, "model"), pictures_of(inputs, "images", turn)
    if not isinstance(patcher, ComponentPatcher):
        raise Unplanned("its model is not a GGML one", foreign=True)
    given = {name: known(inputs, name) for name, value in inputs.items() if name != "images" and value is not None}
    count, height, width, _ = images.shape
    objects = len(given.get("initial_mask", ()))
    if given.get("conditioning"):
        limit = int(given["max_objects"])
        objects = max(objects, min(limit or _MOST, _MOST))
        turn.assumptions.append(f"{objects} objects, as it may find so many")
    tracker = patcher.model.diffusion_model.tracker
    planned = min(count, max(tracker.num_maskmem, tracker.max_obj_ptrs_in_encoder) + 1)
    frames = _Frames(turn.recorder, planned, count)
    node = core.NODE_CLASS_MAPPINGS["SAM3_VideoTrack"]
    names = {
        "comfy.model_management.load_model_gpu": lambda model: model.load(),
        "comfy.model_management.get_torch_device": lambda: torch.device("cpu"),
        "comfy.utils.ProgressBar": lambda _: frames,
    }
    shown = {
        "images": images[:planned], "detection_threshold": _NEVER, "max_objects": 0,
        "initial_mask": unwritten_zeros((objects, height, width)) if objects else None,
    }  # fmt: skip
    with frames.open, SizeGuard():
        with_names(node.execute.__func__, names)(node, **{**given, **shown})
    return ({"packed_masks": None, "n_frames": count, "scores": [], "orig_size": (height, width)},)


def track_masks(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """SAM3_TrackToMask: a mask for each frame."""
    track = known(inputs, "track_data")
    return (unwritten_zeros((track["n_frames"], *track["orig_size"])),)
