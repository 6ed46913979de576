"""The planner's rules for nodes that load pictures, sound and video: zeros in the sizes that a file's header gives."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import folder_paths
from comfy_api.latest import InputImpl, Types
from PIL import Image

from ...native.engines.dry_run import unwritten_zeros
from .unknown import Inputs, NodeTurn, Outputs, Unplanned, known

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values for pictures that lie on their side


def load_image(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """LoadImage: the picture as it is turned, with all frames of an animation."""
    path = _input_path(inputs, "image")
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            if picture.getexif().get(_ORIENTATION) in _TURNED:
                width, height = height, width
    except OSError as error:
        raise Unplanned(f"{path.name} cannot be read ({error})") from error
    return unwritten_zeros((frames, height, width, 3)), unwritten_zeros((frames, height, width))


def load_image_mask(inputs: Inputs, turn: NodeTurn) -> Outputs:
    """LoadImageMask."""
    return (load_image(inputs, turn)[1],)


def load_audio(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """LoadAudio."""
    path = _input_path(inputs, "audio")
    try:
        with av.open(str(path)) as file:
            sound = _sound(file)
    except (OSError, ValueError) as error:  # PyAV's errors are of these
        raise Unplanned(f"{path.name} cannot be read ({error})") from error
    if sound is None:
        raise Unplanned(f"{path.name} has no sound")
    return (sound,)


def load_video(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    """LoadVideo: its frames and its sound."""
    path = _input_path(inputs, "file")
    try:
        with av.open(str(path)) as file:
            stream = next(iter(file.streams.video), None)
            if stream is None:
                raise Unplanned(f"{path.name} has no pictures")
            rate = Fraction(stream.average_rate or 1)
            frames = stream.frames or max(1, round(_seconds(file, stream) * rate))
            images = unwritten_zeros((frames, stream.height, stream.width, 3))
            components = Types.VideoComponents(images=images, audio=_sound(file), frame_rate=rate)
    except (OSError, ValueError) as error:
        raise Unplanned(f"{path.name} cannot be read ({error})") from error
    return (InputImpl.VideoFromComponents(components),)


def _input_path(inputs: Inputs, name: str) -> Path:
    """The file that an input names. Raises Unplanned for one that is not in the input folder."""
    path = Path(folder_paths.get_annotated_filepath(str(known(inputs, name)))).resolve()
    if not path.is_relative_to(Path(folder_paths.get_input_directory()).resolve()):
        raise Unplanned(f"{path.name} is not in the input folder")
    return path


def _sound(file: Any) -> dict[str, Any] | None:
    """The first sound of an open file as ComfyUI has it, [1, channels, samples]; None where there is none."""
    stream = next(iter(file.streams.audio), None)
    if stream is None:
        return None
    rate = stream.codec_context.sample_rate
    samples = max(1, round(_seconds(file, stream) * rate))
    return {"waveform": unwritten_zeros((1, stream.channels, samples)), "sample_rate": rate}


def _seconds(file: Any, stream: Any) -> Fraction:
    """How long a stream of a file lasts."""
    if stream.duration is not None and stream.time_base is not None:
        return Fraction(stream.duration * stream.time_base)
    return Fraction(file.duration or 0, av.time_base)
