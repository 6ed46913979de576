"""Every case of every family, by name, and the third of them that a day takes."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from . import (
    control,
    diffusion_audio,
    diffusion_flux,
    diffusion_image,
    diffusion_lumina,
    diffusion_unet,
    diffusion_video,
    diffusion_wan,
    language_models,
    text_encoders,
    upscalers,
    vae_audio,
    vae_image,
    vae_video,
    vision_encoders,
)  # fmt: skip
from .case import FamilyCase

_FILES = (
    diffusion_unet, diffusion_flux, diffusion_image, diffusion_lumina, diffusion_wan, diffusion_video, diffusion_audio,
    text_encoders, language_models, vision_encoders, vae_image, vae_video, vae_audio, control, upscalers,
)  # fmt: skip
CASES: tuple[FamilyCase, ...] = tuple(case for file in _FILES for case in file.CASES)
STOPS_FILE = Path(__file__).with_name("stops.json")
STOPS: dict[str, str] = json.loads(STOPS_FILE.read_text())  # what does not pass yet, and where it stops


def chosen(which: str) -> list[FamilyCase]:
    """which: all, none, or third: every third case, another third each day of the year."""
    if which == "none":
        return []
    if which == "all":
        return list(CASES)
    day = datetime.datetime.now(datetime.UTC).timetuple().tm_yday
    return list(CASES[day % 3 :: 3])
