"""Placeholders for the pictures, videos and sounds that a prompt loads."""

from __future__ import annotations

import re
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_PICTURES, _VIDEOS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"), (".mp4", ".webm", ".mov", ".mkv")
_SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".m4a")
_LOADERS = ("Load", "Video Slice", "Painter")  # how the classes begin that read from the input folder
_PAINTED = re.compile(r"painted (\d+) of (\d+)\.png")


@dataclass(frozen=True)
class Size:
    """Of what is loaded: pixels, and the frames of a video at 16 a second; a sound lasts as long as the video."""

    width: int = 1024
    height: int = 1024
    frames: int = 81


def painted(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt with something that its user has painted, which a template does not bring: each node a strip."""
    painters = [key for key, node in prompt.items() if node["class_type"] == "Painter"]
    names = {key: f"painted {number} of {len(painters)}.png" for number, key in enumerate(painters)}
    return {
        key: {**node, "inputs": {**node["inputs"], "mask": names[key]}} if key in names else node
        for key, node in prompt.items()
    }


def write_inputs(prompt: Mapping[str, Any], folder: Path, size: Size) -> None:
    """Writes what the prompt's loaders name and is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _named(prompt):
        path = folder / name
        if path.exists() or not path.resolve().is_relative_to(folder.resolve()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if strip := _PAINTED.fullmatch(path.name):
            _strip(size, int(strip[1]), int(strip[2])).save(path)
        elif path.suffix.lower() in _PICTURES:
            _pattern(size).save(path)
        elif path.suffix.lower() in _VIDEOS:
            _write_video(path, size)
        elif path.suffix.lower() in _SOUNDS:
            _write_sound(path, size.frames / 16)


def _named(prompt: Mapping[str, Any]) -> Iterator[str]:
    known = (*_PICTURES, *_VIDEOS, *_SOUNDS)
    for node in prompt.values():
        if node["class_type"].startswith(_LOADERS):
            for value in node["inputs"].values():
                name = value.removesuffix(" [input]").strip() if isinstance(value, str) else ""
                if name.lower().endswith(known):
                    yield name


def _pattern(size: Size, turn: int = 0) -> Image.Image:
    """A picture of waves, which `turn` moves."""
    y, x = np.mgrid[: size.height, : size.width].astype(np.float32)
    waves = [np.sin((x + 8 * turn) / 23), np.cos(y / 31), np.sin((x + y) / 47 + turn / 5)]
    return Image.fromarray(np.stack([127.5 + 127 * wave for wave in waves], axis=-1).astype(np.uint8))


def _strip(size: Size, number: int, of: int) -> Image.Image:
    """A picture that is opaque in one of so many vertical strips."""
    opaque = np.zeros((size.height, size.width, 4), np.uint8)
    opaque[:, number * size.width // of : (number + 1) * size.width // of] = 200, 120, 40, 255
    return Image.fromarray(opaque)


def _write_video(path: Path, size: Size) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=16)
        stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
        stream.time_base = Fraction(1, 16)
        for turn in range(size.frames):
            for packet in stream.encode(av.VideoFrame.from_image(_pattern(size, turn))):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def _write_sound(path: Path, seconds: float) -> None:
    """A tone of 440 Hz, two channels of 16 bits, as WAV whatever the name says: FFmpeg looks at the content."""
    times = np.arange(round(seconds * 44100)) / 44100
    samples = (8000 * np.sin(2 * np.pi * 440 * times)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(np.repeat(samples, 2).tobytes())
